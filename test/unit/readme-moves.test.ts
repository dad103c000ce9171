import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { projectFile } from '../../cli/system/project.js';
import { suite } from '../suite.js';

/** What a row says of something that moves, changes, or is refused. */
interface Row {
  readonly outcome: string;
  readonly what: string;
  readonly codes: readonly string[];
  readonly tests: readonly string[];
}

/** Where verdicts are made, and errors that say the same of a process. */
const SOURCES = ['cli/process', 'cli/migration', 'cli/memory', 'cli/files', 'cli/pod'];
/** Verdicts that say that something is in order. */
const IN_ORDER = ['CARRIED_FILES', 'CPU', 'FILES', 'MEMORY', 'PROCESSES', 'SAME_FILES', 'SOCKETS'];

const test = suite('the table of what moves and what does not, in the README');
const rows = readRows();

/** The rows that follow the heading, in which an empty first cell means the one above. */
function readRows(): Row[] {
  const text = readFileSync(projectFile('README.md'), 'utf8').split('## What moves and what does not')[1] ?? '';
  const lines = (text.split('\n## ')[0] ?? '').split('\n').filter((line) => line.startsWith('| '));
  let outcome = '';
  return lines.slice(1).map((line) => {
    const [, first = '', what = '', codes = '', tests = ''] = line.split('|').map((cell) => cell.trim());
    outcome = first || outcome;
    const words = (cell: string, pattern: RegExp): string[] => [...cell.matchAll(pattern)].map(([, word = '']) => word);
    return { outcome, what, codes: words(codes, /`([A-Z_0-9…]+)`/g), tests: words(tests, /`([a-z]+\/[a-z0-9-]+)`/g) };
  });
}

function sourceText(): string {
  return SOURCES.flatMap((folder) => readdirSync(projectFile(folder)).map((name) => join(folder, name)))
    .map((path) => readFileSync(projectFile(path), 'utf8'))
    .join('\n');
}

/** Codes of verdicts, by how they are written there. */
function verdictCodes(text: string): string[] {
  const called = [
    ...text.matchAll(/\b(?:refused|willChange|ok)\(\s*(?:\w+ === '\w+' \? )?((?:'[A-Z_0-9]+'(?: : )?)+)/g),
  ];
  const listed = [...text.matchAll(/^ {4}'([A-Z_0-9]+)',$/gm)].map(([, code = '']) => `'${code}'`);
  const codes = [...called.map(([, found = '']) => found), ...listed].flatMap((found) =>
    [...found.matchAll(/'([A-Z_0-9]+)'/g)].map(([, code = '']) => code),
  );
  return [...new Set(codes)].sort();
}

test('has rows of each kind, and each names the tests that show it', () => {
  assert.equal([...new Set(rows.map(({ outcome }) => outcome))].slice(0, 3), ['moves', 'will change', 'refused']);
  for (const { what, tests } of rows) assert.ok(tests.length > 0, what);
});

test('every test that it names is there', () => {
  const named = [...new Set(rows.flatMap(({ tests }) => tests))];
  const missing = named.filter((name) => {
    const [kind = '', file = ''] = name.split('/');
    return !readdirSync(projectFile(join('test', kind))).includes(`${file}.test.ts`);
  });
  assert.equal(missing, []);
});

test('every code that it names is one that is said, and every verdict is in it', () => {
  const text = sourceText();
  const named = [...new Set(rows.flatMap(({ codes }) => codes))].filter((code) => !code.includes('…'));
  assert.equal(
    named.filter((code) => !text.includes(`'${code}'`)),
    [],
  );
  const families = rows.flatMap(({ codes }) => codes).filter((code) => code.endsWith('…'));
  const unnamed = verdictCodes(text)
    .filter((code) => !IN_ORDER.includes(code) && !named.includes(code))
    .filter((code) => !families.some((family) => code.startsWith(family.slice(0, -1))));
  assert.equal(unnamed, []);
});

test('of a verdict that is refused, some test that the row names looks for its code', () => {
  const unshown = rows
    .filter(({ outcome }) => outcome !== 'moves')
    .flatMap(({ codes, tests }) => {
      const text = tests.map((name) => readFileSync(projectFile(`test/${name}.test.ts`), 'utf8')).join('\n');
      return codes.filter((code) => !text.includes(code));
    });
  assert.equal(unshown, []);
});

test.run();
