import { readFileSync } from 'node:fs';
import { projectFile } from '../../cli/system/project.js';

const PLACES = ['in the checkout', 'on both', 'on home', 'on host1', 'on a third machine'] as const;
export type Place = (typeof PLACES)[number];

/** A block of README's quick start: what a reader types at one place, line after line. */
export interface Block {
  readonly place: Place;
  /** Here-documents are one line. */
  readonly lines: readonly string[];
}

/**
 * The quick start of README.md.
 * @throws {Error} when there is none, or a block does not begin with a comment that says where it is to be typed
 */
export function quickStart(): Block[] {
  return blocksBelow('### Quick start').map(blockOf);
}

/** The lines of README.md that try it on one machine. */
export function byHand(): string[] {
  return blocksBelow('## Try it by hand').flatMap((body) => joined(body.trimEnd().split('\n')));
}

function blocksBelow(heading: string): string[] {
  const [, chapter = ''] = readFileSync(projectFile('README.md'), 'utf8').split(`\n${heading}`);
  const [text = ''] = chapter.split(/^##/m);
  const blocks = [...text.matchAll(/^```\w*\n(.*?)^```$/gms)].map(([, body = '']) => body);
  if (blocks.length === 0) throw new Error(`README.md has nothing to type below "${heading}"`);
  return blocks;
}

function blockOf(body: string): Block {
  const [first = '', ...rest] = body.trimEnd().split('\n');
  const place = PLACES.find((known) => first === `# ${known}`);
  if (place === undefined) throw new Error(`README.md: the block does not say where it is to be typed: ${first}`);
  return { place, lines: joined(rest) };
}

/** Puts each here-document together with the line that begins it. */
function joined(lines: readonly string[]): string[] {
  const whole: string[] = [];
  let end: string | undefined;
  for (const line of lines) {
    if (end === undefined) whole.push(line);
    else whole.push(`${whole.pop()}\n${line}`);
    if (end === undefined) end = /<<'?(\w+)'?/.exec(line)?.[1];
    else if (line === end) end = undefined;
  }
  return whole;
}
