import Table from 'cli-table3';
import { formatMs } from './analysis.js';
import type { DemoMigration } from './result.js';

/** How the parts of a table are painted; identity functions for a plain text. */
export interface TablePaint {
  readonly head: (text: string) => string;
  readonly good: (text: string) => string;
  readonly bad: (text: string) => string;
  /** What happens while the process stands still. */
  readonly frozen: (text: string) => string;
}

/** The phases between the moment the process is stopped and the moment it runs again: their sum is the freeze. */
const FROZEN_PHASES: ReadonlySet<string> = new Set(['dump', 'transfer', 'restore', 'commit', 'resume']);

/** What happened, a row per migration. */
export function migrationTable(migrations: readonly DemoMigration[], paint: TablePaint): string {
  const head = ['from', 'to', 'outcome', 'freeze', 'stall', 'connections', 'parked', 'replayed', 'dropped', 'moved'];
  const rows = migrations.map((move) => [
    move.from,
    move.to,
    (move.outcome === 'committed' ? paint.good : paint.bad)(move.outcome),
    formatMs(move.freezeMs),
    formatMs(move.stallMs),
    String(move.connections),
    String(move.parkedPackets),
    String(move.replayedPackets),
    move.droppedPackets === 0 ? '0' : paint.bad(String(move.droppedPackets)),
    `${(move.bytesMoved / (1 << 20)).toFixed(1)} MiB`,
  ]);
  return tableOf(head, 3, rows, paint);
}

/** Where the time went, a column per migration; phases in which the process stands still have a star. */
export function phaseTable(migrations: readonly DemoMigration[], paint: TablePaint): string {
  const phases = [...new Set(migrations.flatMap((move) => Object.keys(move.phases)))];
  const head = ['* frozen', ...migrations.map((move) => `${move.from} → ${move.to}`)];
  const rows = phases.map((phase) => {
    const frozen = FROZEN_PHASES.has(phase);
    const cells = [
      frozen ? `${phase} *` : phase,
      ...migrations.map((move) => {
        const ms = move.phases[phase];
        return ms === undefined ? '' : `${ms.toFixed(1)} ms`;
      }),
    ];
    return frozen ? cells.map(paint.frozen) : cells;
  });
  rows.push(['total', ...migrations.map((move) => `${move.totalMs.toFixed(1)} ms`)].map(paint.head));
  return tableOf(head, 1, rows, paint);
}

/** @param words number of columns of words, at the left; the rest are figures. */
function tableOf(head: readonly string[], words: number, rows: readonly string[][], paint: TablePaint): string {
  const [first, ...rest] = rows;
  const table = new Table({
    head: head.map(paint.head),
    colAligns: head.map((_, index) => (index < words ? 'left' : 'right')),
    style: { head: [], border: [], compact: true },
  });
  if (first !== undefined) table.push(first, ...rest);
  return table.toString();
}
