import { ux } from '@oclif/core';
import { printable } from './printable.js';
import type { Verdict } from './process/description.js';
import type { Moving } from './process/needs.js';

/** What `check <pid>` found. */
export interface ProcessCheck {
  readonly pid: number;
  readonly from: string;
  /** Absent: only the node where the process is was asked. */
  readonly to?: string;
  /** `refused`: `migrate` would refuse it for the same reasons. */
  readonly outcome: 'possible' | 'refused';
  readonly moving: Moving;
  readonly verdicts: readonly Verdict[];
}

const GROUPS = [
  ['refused', 'Refused', 'red'],
  ['will-change', 'Will change', 'yellow'],
  ['ok', 'In order', 'green'],
] as const;

/** The lines of a check of a process: what would move, then the verdicts, those against it first. */
export function checkLines({ pid, from, to, outcome, moving, verdicts }: ProcessCheck): string[] {
  const lines = [
    `process ${pid} on ${from}${to === undefined ? '' : `, to ${to}`}`,
    '',
    ux.colorize('bold', 'Would move'),
  ];
  lines.push(...facts(moving).map(([fact, value]) => `  ${fact.padEnd(13)}${value}`));
  for (const [kind, title, colour] of GROUPS) {
    const group = verdicts.filter((verdict) => verdict.outcome === kind);
    if (group.length === 0) continue;
    lines.push('', ux.colorize(colour, title));
    for (const { subject, reason, code, remedy } of group) {
      lines.push(printable(`  ${subject}: ${reason} (${code})`));
      if (remedy !== undefined) lines.push(printable(`    try: ${remedy}`));
    }
  }
  const where = to === undefined ? `away from ${from}` : `from ${from} to ${to}`;
  const end =
    outcome === 'possible' ? `process ${pid} can be moved ${where}` : `process ${pid} cannot be moved ${where}`;
  return [...lines, '', `${end}; nothing was touched`];
}

function facts(moving: Moving): [string, string][] {
  const rows: [string, number | string][] = [
    ['processes', moving.processes],
    ['threads', moving.threads],
    ['memory', `${(moving.memoryBytes / (1 << 20)).toFixed(1)} MiB`],
    ['listeners', moving.listeners],
    ['connections', moving.connections],
    ['UDP sockets', moving.datagramSockets],
    ['unix sockets', moving.unixSockets],
    ['pipes', moving.pipes],
    ['open files', moving.openFiles],
    ['mapped files', moving.mappedFiles],
  ];
  return rows.filter(([, value]) => value !== 0).map(([fact, value]) => [fact, String(value)]);
}
