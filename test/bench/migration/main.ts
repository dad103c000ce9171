/*
 * npm run bench:migration [-- --quick] [-- --json] [-- --out DIR]
 * Moves processes between the nodes of a lab, beside what a plain script with CRIU and Podman do with them, and writes a report with
 * pictures into DIR (bench-migration/). --quick: 10 and 500 MB in under two minutes. --json: the last line is the result.
 * Exit status: 0 measured, whatever the figures are; 2 wrong use; 7 not root.
 */
import { setMaxListeners } from 'node:events';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { asHomeproxyError } from '../../../cli/errors.js';
import { type ByHand, type ByHandSample, moveByHand } from './by-hand.js';
import {
  type Case,
  caseName,
  FULL,
  MODES,
  type Mode,
  machineInWords,
  PODMAN_COPIES,
  possible,
  QUICK,
  TOOL_NAMES,
  type Tool,
} from './cases.js';
import { PlainCriu } from './plain-criu.js';
import { Podman } from './podman.js';
import { terminalReport, writeReport } from './report.js';
import { jsonLine, type Measured, type Result } from './result.js';
import { type Sample, Scene } from './scene.js';

const NOT_ROOT = 7;
/** A process that works all the time while it is copied. */
const WORKER: Case = { memoryMB: 500, writerMBps: 0, connections: 1, runs: 1, byHand: false };

/** What is going on, for whoever waits: not part of the result. */
function say(line: string): void {
  console.error(`bench: ${line}`);
}

type Moved = Omit<Measured, 'byHand'>;

interface Options {
  readonly quick: boolean;
  readonly signal: AbortSignal;
}

async function measure({ quick, signal }: Options): Promise<Result> {
  const wanted = quick ? QUICK : FULL;
  const cases = possible(wanted);
  const leftOut = wanted
    .filter((what) => !cases.includes(what))
    .map((what) => `${caseName(what)}: too little memory here`);
  const machine = machineInWords();
  const moved = await withScene('ours', true, signal, async (scene) => {
    const found: Moved[] = [];
    for (const what of cases) {
      signal.throwIfAborted();
      found.push(await moveCase(scene, what));
    }
    const workKept: number[] = [];
    for (let run = 0; run < (quick ? 1 : 3); run++) workKept.push(await scene.workKept(WORKER));
    return { found, workKept };
  });
  const measured = await withScene('by-hand', false, signal, async (scene) => {
    const podman = await Podman.setUp(scene, signal).catch((error: unknown) => {
      signal.throwIfAborted();
      leftOut.push(`Podman does not run here: ${firstLine(error)}`);
      return undefined;
    });
    const all: Measured[] = [];
    for (const one of moved.found) {
      signal.throwIfAborted();
      all.push(await byHandCase(scene, one, podman, quick));
    }
    return all;
  });
  return { measured, workKept: moved.workKept, leftOut, machine };
}

async function withScene<Found>(
  purpose: string,
  daemons: boolean,
  signal: AbortSignal,
  act: (scene: Scene) => Promise<Found>,
): Promise<Found> {
  say(`building a lab ${daemons ? 'with' : 'without'} homeproxy`);
  const scene = await Scene.up(`bench-move-${purpose}-${process.pid}`, { daemons, signal });
  try {
    return await act(scene);
  } finally {
    await scene.down();
  }
}

/** Every other run begins with the other mode: what comes after what is then the same for all. */
async function moveCase(scene: Scene, what: Case): Promise<Moved> {
  const moves: Record<Mode, Sample[]> = { 'stop-and-copy': [], 'pre-copy': [], 'post-copy': [] };
  const failures: Partial<Record<Mode, string>> = {};
  const rawTcpMs = await scene.rawTcpMs(what.memoryMB);
  const subject = await scene.start(what);
  const modes = what.modes ?? MODES;
  for (let run = 0; run < what.runs; run++) {
    for (const mode of run % 2 === 0 ? modes : [...modes].reverse()) {
      if (failures[mode] !== undefined) continue;
      try {
        for (const to of ['host1', 'home'] as const) moves[mode].push(await scene.move(subject, to, mode));
      } catch (error) {
        failures[mode] = firstLine(error);
        say(`${caseName(what)}, ${mode}: ${failures[mode]}`);
        if (moves[mode].length % 2 === 1) await scene.recall(subject).catch(() => undefined);
      }
    }
  }
  await scene.end(subject);
  for (const mode of modes) {
    const freezes = moves[mode].map(({ freezeMs }) => freezeMs.toFixed(0)).join(' ');
    say(`${caseName(what)}, ${mode}: freeze ${freezes} ms`);
  }
  return { what, rawTcpMs, moves, failures };
}

async function byHandCase(scene: Scene, one: Moved, podman: Podman | undefined, quick: boolean): Promise<Measured> {
  const failures: Partial<Record<Tool, string>> = {};
  const runs = !one.what.byHand ? 0 : quick ? 1 : one.what.runs;
  const moved = async (tool: Tool, of: (run: number) => ByHand): Promise<ByHandSample[]> => {
    const samples: ByHandSample[] = [];
    try {
      while (samples.length < runs) samples.push(await moveByHand(scene, one.what, of(samples.length)));
    } catch (error) {
      failures[tool] = firstLine(error);
    }
    const found = samples.map(({ downMs }) => downMs.toFixed(0)).join(' ');
    if (runs > 0) say(`${caseName(one.what)}, ${TOOL_NAMES[tool]}: ${failures[tool] ?? `${found} ms`}`);
    return samples;
  };
  const plain = await moved('plain', (run) => new PlainCriu(run));
  const fits = possible([one.what], undefined, PODMAN_COPIES).length > 0;
  if (podman !== undefined && !fits) failures.podman = 'too little memory here';
  const byPodman = podman !== undefined && fits ? await moved('podman', () => podman) : [];
  return { ...one, failures: { ...one.failures, ...failures }, byHand: { plain, podman: byPodman } };
}

function firstLine(error: unknown): string {
  return asHomeproxyError(error).message.split('\n')[0] ?? '';
}

async function main(): Promise<number> {
  let values: { quick: boolean; json: boolean; out: string };
  try {
    values = parseArgs({
      options: {
        quick: { type: 'boolean', default: false },
        json: { type: 'boolean', default: false },
        out: { type: 'string', default: 'bench-migration' },
      },
    }).values;
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    return 2;
  }
  if (process.getuid?.() !== 0) {
    console.error('bench:migration builds a lab: run it as root (sudo npm run bench:migration)');
    return NOT_ROOT;
  }
  const interruption = new AbortController();
  setMaxListeners(0, interruption.signal);
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => interruption.abort());
  const result = await measure({ quick: values.quick, signal: interruption.signal });
  console.log(terminalReport(result));
  say(`report: ${writeReport(resolve(values.out), result)}`);
  if (values.json) console.log(jsonLine(result));
  return 0;
}

process.exitCode = await main();
