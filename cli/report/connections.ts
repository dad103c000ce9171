import type { MigrationReport } from '../node/control-methods.js';
import { xmlText } from '../svg-text.js';

type Connections = NonNullable<MigrationReport['connections']>;
type Moved = Connections['moved'][number];
type Numbers = NonNullable<Moved['atSource']>;

/**
 * How each connection stood at the source when it stopped, and at the destination before it ran; nothing when that is not known.
 * @param stayed whether the process was not moved: then it runs on with the sockets that it had
 */
export function connectionsSection(connections: MigrationReport['connections'], stayed: boolean): string {
  if (connections === undefined) return '';
  const rows = [...connections.moved].sort((a, b) => rank(a) - rank(b)).flatMap((moved) => rowsOf(moved, stayed));
  return `<section>
<h2>${stayed ? 'Connections when it had stopped' : 'Connections before and after'}</h2>
<p>${stayed ? stayedVerdict(connections) : verdict(connections)}</p>
<div class="wide"><table><thead><tr><th>local</th><th>remote</th><th>at the</th><th>state</th><th class="number">sent to</th><th class="number">received to</th><th class="number">unread</th><th class="number">unacknowledged</th><th class="number">of it unsent</th><th></th></tr></thead><tbody>
${rows.join('\n')}
</tbody></table></div>
<p class="soft">Sequence numbers after the last byte (or FIN) that was sent and received: at the source as CRIU found them when the process had stopped${stayed ? '' : ', at the destination as its kernel said before the process ran'}. The rest is bytes.</p>
</section>`;
}

/** Those that differ come first, then those that only one end has noted. */
function rank({ same }: Moved): number {
  return same === false ? 0 : same === undefined ? 1 : 2;
}

function verdict({ total, moved }: Connections): string {
  const compared = moved.filter(({ same }) => same !== undefined);
  const differing = compared.filter(({ same }) => same === false).length;
  const unknown = moved.length - compared.length;
  const rest = Math.max(0, total - moved.length);
  const words =
    differing > 0
      ? `<span class="bad">${differing} of ${counted(compared.length)} did not go on where they had stopped.</span>`
      : compared.length > 0
        ? `<span class="good">${counted(compared.length)} went on exactly where ${compared.length === 1 ? 'it' : 'they'} had stopped.</span>`
        : '';
  return [
    words,
    unknown > 0 ? `Of ${counted(unknown)} only one end is known.` : '',
    rest > 0 ? `There were ${rest} more, of which nothing was noted.` : '',
  ]
    .filter((text) => text !== '')
    .join(' ');
}

/** There is nothing to compare: who runs on has the same sockets, and they go on as soon as it does. */
function stayedVerdict({ total, moved }: Connections): string {
  const rest = Math.max(0, total - moved.length);
  return `${counted(total)} stood still with the process and went on from here: it kept its sockets, which were never closed, so there is no other end to compare.${rest > 0 ? ` Of ${rest} nothing was noted.` : ''}`;
}

function counted(connections: number): string {
  return connections === 1 ? '1 connection' : `${connections} connections`;
}

function rowsOf({ local, remote, atSource, atDestination, same }: Moved, stayed: boolean): string[] {
  if (stayed) {
    return [`<tr><td>${xmlText(local)}</td><td>${xmlText(remote)}</td>${cells('source', atSource)}<td></td></tr>`];
  }
  const names = `<td rowspan="2">${xmlText(local)}</td><td rowspan="2">${xmlText(remote)}</td>`;
  const mark =
    same === undefined
      ? '<td rowspan="2" class="soft">one end only</td>'
      : `<td rowspan="2" class="${same ? 'good' : 'bad'}">${same ? 'the same' : 'differs'}</td>`;
  return [`<tr>${names}${cells('source', atSource)}${mark}</tr>`, `<tr>${cells('destination', atDestination)}</tr>`];
}

function cells(end: string, numbers: Numbers | undefined): string {
  if (numbers === undefined) return `<td>${end}</td><td class="soft" colspan="6">not noted</td>`;
  const { state, sent, received, unread, unacknowledged, unsent } = numbers;
  const number = (value: number | undefined): string => `<td class="number">${value ?? ''}</td>`;
  return `<td>${end}</td><td>${xmlText(state)}</td>${[sent, received, unread, unacknowledged, unsent].map(number).join('')}`;
}
