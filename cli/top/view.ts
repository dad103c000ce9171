import { printable } from '../printable.js';
import { textTable } from '../text-table.js';
import type { Rate, TopSample } from './rates.js';

export interface ViewSize {
  readonly columns: number;
  readonly rows: number;
}

const SHOWN_OUTCOMES = ['forwarded', 'parked', 'dropped', 'passed'] as const;

/** The lines of one picture, none longer or more than the size. */
export function viewOf(sample: TopSample, { columns, rows }: ViewSize, now = Date.now()): string[] {
  const { node, startedAt, outcomes, processes, migrations } = sample;
  const away = processes.filter(({ role }) => role === 'departed').length;
  const guests = processes.filter(({ role }) => role === 'resident').length;
  const waiting = processes.reduce((sum, { parked }) => sum + parked, 0);
  const lines = [
    `${node}, up ${duration(now - startedAt)}: ${away} away, ${guests} here for another home, ${migrations.length} moving`,
    SHOWN_OUTCOMES.map((name) => `${name} ${rateText(outcomes[name])}`).join('   '),
    `waiting ${waiting} packets`,
  ];
  if (migrations.length > 0) {
    const table = textTable(
      ['pid', 'from', 'to', 'phase', 'for', 'in all', 'command'],
      migrations.map(({ pid, from, to, phase, phaseMs, totalMs, comm }) => [
        pid,
        from,
        to,
        phase ?? '-',
        `${phaseMs.toFixed(0)} ms`,
        `${totalMs.toFixed(0)} ms`,
        comm,
      ]),
    );
    lines.push('', ...table.split('\n'));
  }
  lines.push('', ...processTable(sample));
  const most = Math.max(1, rows);
  const shown = lines.length > most ? [...lines.slice(0, most - 1), `… ${lines.length - most + 1} more`] : lines;
  return shown.map((line) => cut(printable(line), columns));
}

function processTable({ processes }: TopSample): string[] {
  if (processes.length === 0) return ['no process is away, and none lives here for another home'];
  return textTable(
    ['pid', 'home', 'runs on', 'role', 'packets/s', 'bytes/s', 'dropped/s', 'waiting', 'command'],
    processes.map(({ pid, home, location, role, forwarded, dropped, parked, comm }) => [
      pid,
      home,
      location,
      role,
      short(forwarded.packetsPerSecond),
      short(forwarded.bytesPerSecond),
      short(dropped.packetsPerSecond),
      parked,
      comm,
    ]),
  ).split('\n');
}

function rateText(rate: Rate | undefined): string {
  return `${short(rate?.packetsPerSecond ?? 0)}/s (${short(rate?.bytesPerSecond ?? 0)}B/s)`;
}

/** Three digits and a unit: 0, 12.3, 123, 1.23k, 12.3M. */
function short(value: number): string {
  let rest = value;
  for (const unit of ['', 'k', 'M', 'G']) {
    if (rest < 999.5) return `${Number(rest.toPrecision(3))}${unit}`;
    rest /= 1000;
  }
  return `${rest.toFixed(0)}T`;
}

function duration(ms: number): string {
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 1) return `${Math.floor(ms / 1000)} s`;
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.floor(hours / 24)} days`;
}

function cut(line: string, columns: number): string {
  const letters = [...line];
  return letters.length <= columns ? line : `${letters.slice(0, Math.max(0, columns - 1)).join('')}…`;
}
