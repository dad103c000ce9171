/*
 * A report: one page of Markdown with a picture for each part, and the same tables for the terminal.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { textTable } from '../../cli/text-table.js';

type Rows = readonly (readonly string[])[];

export interface Section {
  readonly title: string;
  readonly text: string;
  readonly head: readonly string[];
  readonly rows: Rows;
  readonly picture?: { readonly file: string; readonly svg: string };
}

export function inTerminal(sections: readonly Section[]): string {
  return sections.map(({ title, text, head, rows }) => `${title}\n${text}\n\n${textTable(head, rows)}\n`).join('\n');
}

/** Writes README.md and its pictures. @returns the path of the page. */
export function writePage(folder: string, title: string, sections: readonly Section[]): string {
  mkdirSync(folder, { recursive: true });
  const parts = sections.map(({ title: heading, text, head, rows, picture }) => {
    if (picture !== undefined) writeFileSync(join(folder, picture.file), picture.svg);
    const shown = picture === undefined ? [] : [`![${heading}](${picture.file})`, ''];
    return [`## ${heading}`, '', text, '', ...shown, markdownTable(head, rows), ''].join('\n');
  });
  const path = join(folder, 'README.md');
  writeFileSync(path, [`# ${title}`, '', ...parts].join('\n'));
  return path;
}

function markdownTable(head: readonly string[], rows: Rows): string {
  const line = (cells: readonly string[]) => `| ${head.map((_, index) => cells[index] ?? '').join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}
