import Table from 'cli-table3';
import { printable } from './printable.js';

const PARTS = [
  'top',
  'top-mid',
  'top-left',
  'top-right',
  'bottom',
  'bottom-mid',
  'bottom-left',
  'bottom-right',
  'left',
];
const INNER = ['left-mid', 'mid', 'mid-mid', 'right', 'right-mid'];
const NO_LINES = { ...Object.fromEntries([...PARTS, ...INNER].map((part) => [part, ''])), middle: '  ' };

/** Aligned columns without lines or colours, as ps(1) prints them: readable on a terminal and by a script. */
export function textTable(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const style = { head: [], border: [], 'padding-left': 0, 'padding-right': 0 };
  const table = new Table({ head: head.map((title) => title.toUpperCase()), style, chars: NO_LINES });
  for (const row of rows) table.push(row.map((cell) => printable(String(cell))));
  return table
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}
