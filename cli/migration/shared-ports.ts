import type { Listener, ProcessDescription, Verdict } from '../process/description.js';
import { refused } from '../process/verdicts.js';
import type { TwinRecord } from './records.js';

/**
 * What a host sees of a process that is away, as its home must take it: alone in its pod it seems to have its ports for itself, and
 * at home others may have them too, as the parent has of which it was a child. Of such a port only its connections are its own.
 * @param atHome its description of before
 */
export function sharedAsAtHome(atHome: ProcessDescription, seen: ProcessDescription): ProcessDescription {
  const shared = atHome.ports.filter(({ exclusive }) => !exclusive);
  const isShared = ({ protocol, address, port }: ProcessDescription['ports'][number]): boolean =>
    shared.some((other) => other.protocol === protocol && other.address === address && other.port === port);
  const listening = seen.listening.map((listener) => asAtHome(listener, atHome.listening ?? [])); // a former version's record has none
  if (!seen.ports.some(isShared)) return { ...seen, listening };
  const ports = seen.ports.map((port) => (isShared(port) ? { ...port, exclusive: false } : port));
  return { ...seen, ports, flows: [...seen.flows, ...atHome.flows], listening };
}

/**
 * The one in its pod stands for the one that stayed at home, whose name it keeps: the home's own word, for who has the name is given
 * the socket when it comes home.
 */
function asAtHome({ transport, address, port }: Listener, atHome: readonly Listener[]): Listener {
  const { cookie } =
    atHome.find((other) => other.transport === transport && other.address === address && other.port === port) ?? {};
  return { transport, address, port, ...(cookie === undefined ? {} : { cookie }) };
}

/**
 * Whether processes that are away hold ports that one which is about to leave has for itself at home, as a child does that has
 * left its parent. The datapath knows one owner of a port, or an owner of each of its connections; not one of all the others.
 * @param away the twins of this home
 */
export function portsAway(
  leaving: Pick<ProcessDescription, 'ports'>,
  away: readonly { readonly record: Pick<TwinRecord, 'description'> }[],
): Verdict[] {
  return leaving.ports.flatMap(({ protocol, address, port, exclusive }) => {
    const holder = away.find(({ record: { description } }) =>
      description.ports.some(
        (held) =>
          held.protocol === protocol && held.address === address && held.port === port && (exclusive || held.exclusive),
      ),
    );
    if (holder === undefined) return [];
    const { homePid, comm } = holder.record.description;
    return refused(
      'PORT_AWAY',
      `${protocol} ${address} ${port}`,
      `process ${homePid} (${comm}), which is away, has connections or a socket of that port too`,
      `bring it back first: homeproxy recall ${homePid}`,
    );
  });
}
