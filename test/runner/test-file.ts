import { EventEmitter } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, relative, resolve } from 'node:path';
import { ProcessGroup } from './process-group.js';
import { judge, suitesNotRun, type Verdict } from './verdict.js';

/** In the order they run: cheap before dear, so that a plain mistake shows early. */
export const kinds = ['unit', 'addon', 'packet', 'lab', 'operate', 'apps'] as const;
export type Kind = (typeof kinds)[number];
/** They install packages, and take their time: run only when asked for (`npm run test:operate`, `npm run test:apps`). */
const ON_REQUEST: readonly Kind[] = ['operate', 'apps'];

export interface TestFile {
  readonly kind: Kind;
  /** For people: `unit/run`. */
  readonly name: string;
  /** The compiled file. */
  readonly path: string;
  readonly limitMs: number;
}

export interface TestResult extends Verdict {
  readonly file: TestFile;
  readonly output: string;
  readonly seconds: number;
}

const defaultLimitMs = 300_000;
const suffix = '.test.js';

/**
 * Finds the compiled test files of a folder that holds the kinds.
 * @param project the root that `dist` lies in; the sources there say the time limits (`// limit: 600 s` in the first lines)
 */
export function findTests(folder: string, project: string): TestFile[] {
  return kinds.flatMap((kind) => {
    const home = join(folder, kind);
    if (!existsSync(home)) return [];
    const files = readdirSync(home, { recursive: true, encoding: 'utf8' });
    return files
      .filter((file) => file.endsWith(suffix))
      .sort()
      .map((file) => {
        const path = join(home, file);
        const name = `${kind}/${file.slice(0, -suffix.length)}`;
        return { kind, name, path, limitMs: limitOf(sourceOf(path, project)) };
      });
  });
}

/** The files that the words choose: kinds, names (`unit/run`), or paths of sources or compiled files. No words: all but those on request. */
export function choose(files: readonly TestFile[], words: readonly string[], project: string): TestFile[] {
  if (words.length === 0) return files.filter(({ kind }) => !ON_REQUEST.includes(kind));
  const chosen = new Set<TestFile>();
  for (const word of words) {
    const path = resolve(word);
    const matching = files.filter(
      (file) =>
        [file.kind, file.name, basename(file.name)].includes(word) ||
        [file.path, sourceOf(file.path, project)].includes(path),
    );
    if (matching.length === 0) throw new Error(`no test file or kind '${word}' (kinds: ${kinds.join(', ')})`);
    for (const file of matching) chosen.add(file);
  }
  return files.filter((file) => chosen.has(file));
}

function sourceOf(compiled: string, project: string): string {
  return resolve(project, relative(join(project, 'dist'), compiled).replace(/\.js$/, '.ts'));
}

function limitOf(source: string): number {
  if (!existsSync(source)) return defaultLimitMs;
  const head = readFileSync(source, 'utf8').split('\n', 5).join('\n');
  const seconds = /^\/\/ limit: (\d+) s$/m.exec(head)?.[1];
  return seconds === undefined ? defaultLimitMs : Number(seconds) * 1000;
}

/** Ctrl-C: emits `interrupt` each time. */
export class Interruption extends EventEmitter<{ interrupt: [] }> {
  #happened = false;

  get happened(): boolean {
    return this.#happened;
  }

  /** Passes a Ctrl-C on; may be called again by a person who will not wait. */
  interrupt(): void {
    this.#happened = true;
    this.emit('interrupt');
  }
}

/**
 * Runs one file in a process of its own.
 * @param strictSkips a skip is a fault (in CI)
 */
export async function runTest(file: TestFile, strictSkips: boolean, interruption: Interruption): Promise<TestResult> {
  const started = performance.now();
  const faults: string[] = [];
  const folder = temporaryFolder(file);
  const env = { ...process.env, NO_COLOR: '1', ...(folder === undefined ? {} : { TMPDIR: folder }) };
  const group = new ProcessGroup(process.execPath, [file.path], env);
  const onInterrupt = () => {
    if (!faults.includes('interrupted')) faults.push('interrupted');
    void group.end();
  };
  const onLimit = () => {
    faults.push(`still running after its limit of ${file.limitMs / 1000} s`);
    void group.end();
  };
  interruption.on('interrupt', onInterrupt);
  const limit = setTimeout(onLimit, file.limitMs);
  try {
    await group.exited;
  } finally {
    clearTimeout(limit);
    interruption.off('interrupt', onInterrupt);
  }
  faults.push(...(await group.sweep()));
  if (folder !== undefined) faults.push(...removeTemporary(folder));
  faults.push(...suitesNotRun(readFileSync(file.path, 'utf8')).map((name) => `${name}.run() is missing`));
  const { status, signal, output } = group;
  const seconds = (performance.now() - started) / 1000;
  return { file, output, seconds, ...judge({ status, signal, output, faults }, strictSkips) };
}

/**
 * What a file leaves in it goes with it, also after a Ctrl-C. Only for tests that stay on this machine: a node of a lab has its own
 * folders, where this path is none.
 */
function temporaryFolder({ kind }: TestFile): string | undefined {
  return kind === 'unit' || kind === 'addon' ? mkdtempSync(join(tmpdir(), 'homeproxy-test-')) : undefined;
}

/** @returns what speaks against it: a mount that was left there may hold what is not the test's. */
function removeTemporary(folder: string): string[] {
  const left = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .filter((place) => place.startsWith(`${folder}/`));
  if (left.length > 0) return [`left mounts behind: ${left.join(', ')}`];
  rmSync(folder, { recursive: true, force: true });
  return [];
}
