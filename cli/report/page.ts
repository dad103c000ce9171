import { memoryInWords } from '../memory/carried.js';
import type { JournalRow, MigrationReport } from '../node/control-methods.js';
import { xmlText } from '../svg-text.js';
import { connectionsSection } from './connections.js';
import { type Mark, migrationTimeline, type Span } from './timeline.js';

/** The card brings its own colours for light and dark pages, and loads nothing. */
const STYLE = `
:root { color-scheme: light dark; --page: #f4f6f8; --card: #fff; --ink: #1d2733; --soft: #5b6877; --edge: #d5dae1; --grid: #e9edf1;
  --phase0: #1c6fc4; --phase1: #4a90d9; --freeze: #7048e8; --coordinator: #0b7285; --source: #d9480f; --destination: #2b8a3e; --bad: #c92a2a; --good: #2b8a3e; }
@media (prefers-color-scheme: dark) { :root { --page: #0e1216; --card: #161c22; --ink: #e8edf2; --soft: #9aa7b5; --edge: #323b46; --grid: #232b34;
  --phase0: #2f7fcf; --phase1: #1f5f9f; --freeze: #a08bff; --coordinator: #3bc9db; --source: #ff8a4c; --destination: #69db7c; --bad: #ff8787; --good: #69db7c; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1100px; margin: 24px auto; padding: 0 16px; }
section, header { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: 16px 20px; margin: 0 0 16px; }
h1 { font-size: 21px; margin: 0; } h2 { font-size: 16px; margin: 0 0 8px; } p { margin: 6px 0; } .soft { color: var(--soft); fill: var(--soft); }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; white-space: pre-wrap; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px 20px; margin: 12px 0 0; }
dt { color: var(--soft); font-size: 13px; } dd { margin: 0; font-size: 19px; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; margin: 8px 0; } svg text { font-size: 12px; fill: var(--ink); } svg .title { font-weight: 600; } svg .soft { fill: var(--soft); }
svg .inside { fill: #fff; } .grid { stroke: var(--grid); } .rule { stroke: var(--edge); } .freeze { fill: var(--freeze); opacity: .22; }
.shade0 { fill: var(--phase0); } .shade1 { fill: var(--phase1); } .mark { stroke: var(--card); stroke-width: 1.5; }
.coordinator { fill: var(--coordinator); background: var(--coordinator); } .source { fill: var(--source); background: var(--source); } .destination { fill: var(--destination); background: var(--destination); }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin: 0 5px 0 14px; } .band { display: inline-block; width: 16px; height: 10px; margin: 0 5px 0 14px; background: var(--freeze); opacity: .4; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; } td, th { text-align: left; padding: 2px 14px 2px 0; border-bottom: 1px solid var(--grid); } td.number, th.number { text-align: right; }
.wide { overflow-x: auto; } .wide td, .wide th { white-space: nowrap; }
`;

/** A margin around the freeze in the closer view, as a share of it. */
const AROUND = 0.25;

interface Step extends Mark {
  readonly node: string;
}

/**
 * One migration as a self-contained HTML page: outcome, figures, phases and steps of every node over time, what became of its
 * packets and its connections. Nothing in it is loaded from elsewhere, and it has no script.
 */
export function reportPage(report: MigrationReport): string {
  const { row } = report;
  const title = titleOf(row);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${xmlText(title)}</title>
<style>${STYLE}</style>
</head>
<body>
<main>
${[header(title, row), timelines(report), packets(row), connectionsSection(report.connections, stayed(row)), reapplied(report), steps(report)].filter((part) => part !== '').join('\n')}
</main>
</body>
</html>
`;
}

function titleOf({ comm, pid, from, to, migration }: JournalRow): string {
  return comm === undefined ? migration : `${comm} (${pid}): ${from} → ${to}`;
}

function header(title: string, row: JournalRow): string {
  const { summary, migration, epoch, startedAt } = row;
  const begun = startedAt ?? row.steps[0]?.at;
  const facts: [string, string][] =
    summary === undefined
      ? []
      : [
          ['frozen', milliseconds(summary.freezeMs)],
          ...(summary.stallMs === undefined
            ? []
            : [['longest wait of a packet', milliseconds(summary.stallMs)] as [string, string]]),
          ['whole migration', milliseconds(summary.totalMs)],
          ['connections', String(summary.connections)],
          ['bytes moved', `${(summary.bytesMoved / (1 << 20)).toFixed(2)} MiB`],
          ...(summary.memory === undefined ? [] : [['memory', memoryInWords(summary.memory)] as [string, string]]),
          ...(summary.notKept ?? []).map((words): [string, string] => ['not kept', words]),
        ];
  return `<header>
<h1>${xmlText(title)}</h1>
<p>${outcome(row)}</p>
<p class="soft">${xmlText(migration)}${epoch === undefined ? '' : `, epoch ${epoch}`}${begun === undefined ? '' : `, begun ${new Date(begun).toISOString()}`}</p>
${facts.length === 0 ? '' : `<dl>${facts.map(([name, value]) => `<div><dt>${name}</dt><dd>${xmlText(value)}</dd></div>`).join('')}</dl>`}
</header>`;
}

function outcome({ state, error, summary, to, from }: JournalRow): string {
  const because = error === undefined ? '' : `: ${error.message} (${error.code})`;
  switch (state) {
    case 'done':
      return `<span class="good">It runs on ${xmlText(to ?? '')}.</span>${summary === undefined ? ' A crash cut this migration short and it was finished afterwards, so its times are not known.' : ''}`;
    case 'rolled-back':
    case 'reverted':
      return `<span class="bad">It did not move and runs on ${xmlText(from ?? '')} as before${xmlText(because)}</span>`;
    case 'taken-part':
      return 'This node took part; its home node decided. Ask the home node for the outcome.';
    default:
      return `<span class="bad">Not finished yet: ${xmlText(state)}${xmlText(because)}</span>`;
  }
}

function stayed({ state }: JournalRow): boolean {
  return state === 'rolled-back' || state === 'reverted';
}

function timelines(report: MigrationReport): string {
  const all = stepsOf(report);
  const { row } = report;
  const { summary } = row;
  const phases = summary === undefined ? [] : phaseSpans(summary);
  const times = [...all.map(({ at }) => at), ...phases.flatMap(({ from, to }) => [from, to])];
  if (times.length === 0) return '';
  const names = [...new Set([report.node, ...report.others.map(({ node }) => node)])];
  const nodes = names.map((name) => ({ name, marks: all.filter(({ node }) => node === name) }));
  const whole = { from: Math.min(...times), to: Math.max(...times) };
  const freeze =
    summary === undefined
      ? undefined
      : { name: `frozen for ${milliseconds(summary.freezeMs)}`, from: summary.frozenAt, to: summary.resumedAt };
  const pictures = [migrationTimeline({ title: 'The whole migration', ...whole, phases, nodes, freeze })];
  if (freeze !== undefined) {
    const margin = (freeze.to - freeze.from) * AROUND;
    const near = { from: freeze.from - margin, to: freeze.to + margin, zero: freeze.from };
    pictures.push(migrationTimeline({ title: 'The freeze', ...near, phases, nodes, freeze }));
  }
  const legend = ['coordinator', 'source', 'destination'].map((role) => `<span class="dot ${role}"></span>${role}`);
  return `<section>
<h2>Phases and steps</h2>
${pictures.join('\n')}
<p class="soft">Steps of the ${legend.join('')}${freeze === undefined ? '' : '<span class="band"></span>frozen'}. A mark says its name when pointed at. Each node's marks are by its own clock.</p>
${report.others
  .filter(({ error }) => error !== undefined)
  .map(({ node, error }) => `<p class="bad">No steps of ${xmlText(node)}: ${xmlText(error?.message ?? '')}</p>`)
  .join('\n')}
</section>`;
}

/** One ends where the next begins; `dump` begins with the freeze. */
function phaseSpans({ phases, frozenAt }: NonNullable<JournalRow['summary']>): Span[] {
  const entries = Object.entries(phases);
  const before = entries.slice(
    0,
    entries.findIndex(([name]) => name === 'dump'),
  );
  let at = frozenAt - before.reduce((sum, [, ms]) => sum + ms, 0);
  return entries.map(([name, ms]) => {
    const span = { name, from: at, to: at + ms };
    at += ms;
    return span;
  });
}

function packets({ summary }: JournalRow): string {
  if (summary === undefined) return '';
  const { parkedPackets, replayedPackets, droppedPackets } = summary;
  return `<section>
<h2>Packets that arrived while it stood still</h2>
<dl><div><dt>parked</dt><dd>${parkedPackets}</dd></div><div><dt>replayed in their order</dt><dd>${replayedPackets}</dd></div><div><dt>dropped</dt><dd>${droppedPackets}</dd></div></dl>
<p class="soft">${droppedPackets === 0 ? 'Every packet was held and delivered.' : 'The queue was full (park.packets): TCP sends again what was dropped, UDP does not.'}</p>
</section>`;
}

function reapplied({ reapplied: words }: MigrationReport): string {
  if (words === undefined || words.length === 0) return '';
  return `<section>
<h2>Set again at the destination</h2>
<p class="soft">Options of sockets that somebody had set, and that a checkpoint does not carry.</p>
<ul>${words.map((each) => `<li>${xmlText(each)}</li>`).join('')}</ul>
</section>`;
}

function steps(report: MigrationReport): string {
  const all = stepsOf(report).sort((a, b) => a.at - b.at);
  const start = all[0]?.at ?? 0;
  const rows = all.map(
    ({ node, name, at }) =>
      `<tr><td>${new Date(at).toISOString().slice(11, 23)}</td><td class="number">${(at - start).toFixed(1)}</td><td>${xmlText(node)}</td><td>${xmlText(name)}</td></tr>`,
  );
  return `<section>
<h2>Every step</h2>
<div class="wide"><table><thead><tr><th>time (UTC)</th><th class="number">ms</th><th>node</th><th>step</th></tr></thead><tbody>
${rows.join('\n')}
</tbody></table></div>
</section>`;
}

function stepsOf({ node, row, others }: MigrationReport): Step[] {
  return [{ node, steps: row.steps }, ...others].flatMap(({ node: of, steps: noted }) =>
    noted.map(({ step, at }) => ({ node: of, name: step, at })),
  );
}

function milliseconds(ms: number): string {
  return `${ms.toFixed(1)} ms`;
}
