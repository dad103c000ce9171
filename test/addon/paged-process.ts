// SPDX-License-Identifier: Apache-2.0
/** A process whose memory comes by a pager, and the end of the source. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { pagerProgram } from '../../addon/lib/index.js';
import { pagerPids, readPagerState } from '../../cli/memory/pager.js';
import { bareRecords, HEADER_BYTES, PAGE_BYTES, type Range, signRecord } from '../../cli/memory/records.js';
import { projectFile } from '../../cli/system/project.js';

export const START = 0x7f00_0000_0000;
export const PAGES = 600;
/** Whoever uses it removes it in the end. */
export const folder = mkdtempSync(join(tmpdir(), 'homeproxy-paged-'));
const program = join(folder, 'paged');

export function pages(from: number, to: number): Range {
  return { start: START + from * PAGE_BYTES, end: START + to * PAGE_BYTES };
}

export function letter(page: number): string {
  return String.fromCharCode(97 + (page % 26));
}

export function letters(from: number, to: number): string {
  return Array.from({ length: to - from }, (_, index) => letter(from + index)).join('');
}

/** The end of the source, which says what it is told to. */
export class Source {
  readonly missing: Range[] = [];
  readonly asked: number[] = [];
  done = false;
  private heard = Buffer.alloc(0);
  private told = false;
  private constructor(
    private readonly socket: Socket,
    private readonly answers: boolean,
  ) {}

  /** @param answers it sends what is asked for, at once */
  static async connect(place: string, answers = true): Promise<Source> {
    const socket = connect(join(place, 'pager.line'));
    const source = new Source(socket, answers);
    socket.on('error', () => undefined);
    socket.on('data', (chunk) => source.hear(chunk));
    await once(socket, 'connect');
    await source.until(() => source.told);
    return source;
  }

  send(from: number, to: number): void {
    const content = Array.from({ length: to - from }, (_, index) => Buffer.alloc(PAGE_BYTES, letter(from + index)));
    this.socket.write(Buffer.concat([bareRecords('pages', [pages(from, to)]), ...content]));
  }

  zero(from: number, to: number): void {
    this.socket.write(bareRecords('zero', [pages(from, to)]));
  }

  cut(): void {
    this.socket.destroy();
  }

  async until(what: () => boolean): Promise<void> {
    for (const deadline = performance.now() + 5000; !what(); await pause(1))
      assert.ok(performance.now() < deadline, `in time; asked: ${this.asked}`);
  }

  private hear(chunk: Buffer): void {
    this.heard = Buffer.concat([this.heard, chunk]);
    for (; this.heard.length >= HEADER_BYTES; this.heard = this.heard.subarray(HEADER_BYTES)) {
      const kind = this.heard.readUInt32BE(0);
      const start = Number(this.heard.readBigUInt64BE(8));
      const bytes = Number(this.heard.readBigUInt64BE(16));
      const [from, to] = [(start - START) / PAGE_BYTES, (start - START + bytes) / PAGE_BYTES];
      if (kind === 9) this.missing.push({ start: from, end: to });
      if (kind === 6) this.told = true;
      if (kind === 11) this.done = true;
      if (kind !== 10) continue;
      this.asked.push(from);
      if (this.answers) this.send(from, to);
    }
  }
}

export interface Scene {
  readonly place: string;
  /** Where its pages are, while it has not moved them. */
  at: number;
  /** What the process prints next. */
  line(): Promise<string>;
  tell(what: string): Promise<string>;
  input: NodeJS.WritableStream;
  /** What was started as its pager; undefined for one that has always been there. */
  pager: ChildProcess | undefined;
  /** Of the process; 0 until it runs. */
  pid: number;
}

const scenes: Scene[] = [];

/**
 * A process of pages `[0, PAGES)`: those of `here` have come, and `later` come when it runs.
 * @param start where they were at the source.
 */
export async function begin(later: Range[], here: Range[] = [], start = START, ...how: string[]): Promise<Scene> {
  const place = mkdtempSync(join(folder, 'paged-'));
  const whole = { start, end: start + PAGES * PAGE_BYTES };
  mkdirSync(join(place, 'parent'));
  for (const name of ['inventory.img', 'parent/pages-1.img']) writeFileSync(join(place, name), '');
  const come = here.flatMap((range) => [bareRecords('pages', [range]), Buffer.alloc(range.end - range.start, 'H')]);
  const last = [bareRecords('mapping', [whole]), bareRecords('keep', here), bareRecords('later', later)];
  writeFileSync(
    join(place, 'memory'),
    Buffer.concat([bareRecords('area', [whole]), ...come, ...last, signRecord('end')]),
  );
  const scene = await arrive(place, ...how);
  await runs(scene);
  return scene;
}

/** A pager, and a process that gets its memory as the FIFO or file `memory` of the folder says. */
export async function arrive(place: string, ...how: string[]): Promise<Scene> {
  const pager = spawn(pagerProgram(), [place], { stdio: ['ignore', 'ignore', 'inherit'] });
  while (!existsSync(join(place, 'pager.line'))) await pause(1);
  const env = {
    LD_PRELOAD: projectFile('addon/build/Release/criu-memory.node'),
    HOMEPROXY_MEMORY: place,
    HOMEPROXY_MEMORY_LIMIT: String(PAGES * PAGE_BYTES),
  };
  return start(place, pager, [...Object.entries(env).map(([name, value]) => `${name}=${value}`), program], ...how);
}

/** A process as it was at first: its pages `[0, count)` have letters. */
export async function original(count: number): Promise<Scene> {
  const place = mkdtempSync(join(folder, 'paged-'));
  const scene = start(place, undefined, [program], String(count));
  await runs(scene);
  return scene;
}

/** Not our child, for it is traced: Node waits for those. */
function start(place: string, pager: ChildProcess | undefined, command: string[], ...more: string[]): Scene {
  const between = ['-c', 'exec 3<&0; env "$@" <&3 3<&- & exec 3<&- <&-; wait', 'sh'];
  const child = spawn('sh', [...between, ...command, place, String(PAGES * PAGE_BYTES), ...more], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const line = async (): Promise<string> => (await lines.next()).value ?? 'nothing more';
  const tell = async (what: string): Promise<string> => {
    child.stdin.write(`${what}\n`);
    return await line();
  };
  const scene = { place, at: 0, pid: 0, line, tell, input: child.stdin, pager };
  scenes.push(scene);
  return scene;
}

/** Waits until it has said that it runs, and where. */
export async function runs(scene: Scene): Promise<void> {
  [scene.at = 0, scene.pid = 0] =
    /^runs (\d+) (\d+)$/
      .exec(await scene.line())
      ?.slice(1)
      .map(Number) ?? [];
  assert.ok(scene.pid > 0);
}

/** In one moment: none of them does anything between the end of the first and its own. */
export function killTogether(...pids: number[]): void {
  for (const signal of ['SIGSTOP', 'SIGKILL'] as const) {
    for (const pid of pids) {
      try {
        if (pid > 0) process.kill(pid, signal);
      } catch {
        // it has ended
      }
    }
  }
}

export function pagersOf(place: string): number[] {
  const state = readPagerState(place);
  return state === undefined ? [] : pagerPids(state);
}

/** Before the first of them. */
export function buildProgram(): void {
  execFileSync('clang', ['-O1', '-o', program, projectFile('test/addon/fixtures/paged.c')]);
}

/** Ends what was begun, and its pagers. */
export function endAll(): void {
  for (const { place, pid: subject, input } of scenes.splice(0)) {
    input.end();
    killTogether(subject, ...pagersOf(place));
    rmSync(place, { recursive: true });
  }
}
