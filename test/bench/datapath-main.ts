/*
 * npm run bench:datapath [-- --quick | --lab-quick] [-- --json] [-- --out DIR] [-- --seed N]
 * Measures the datapath beside what it is compared with, and writes a report with pictures into DIR (bench-datapath/).
 * --quick: nanoseconds per packet only, in less than a minute. --lab-quick: the lab in one short round. --json: the last line
 * is the result.
 * Exit status: 0 measured, whatever the figures are; 2 wrong use; 7 not root.
 */
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { randomFrom } from '../fault/chance.js';
import { measureTax } from './home-tax.js';
import { compareInLab } from './lab-comparison.js';
import { measureMemory } from './map-memory.js';
import { measurePackets, Scene } from './per-packet.js';
import { terminalReport, writeReport } from './report.js';
import { jsonLine, type Result } from './result.js';
import type { Rounds } from './rounds.js';
import { measureTc } from './tc-packets.js';

const QUICK: Rounds = { count: 40, runs: 1000 };
const FULL: Rounds = { count: 100, runs: 2000 };
/** Seconds of one measurement, and how often each path is measured. */
const LAB = { rounds: 4, seconds: 1 };
const NOT_ROOT = 7;

interface Options {
  readonly quick: boolean;
  readonly labQuick: boolean;
  readonly json: boolean;
  readonly out: string;
  readonly seed: number;
}

function options(): Options {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      'lab-quick': { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      out: { type: 'string', default: 'bench-datapath' },
      seed: { type: 'string', default: '1' },
    },
  });
  const { seed, 'lab-quick': labQuick } = values;
  if (!/^\d+$/.test(seed)) throw new TypeError(`--seed takes a number, not '${seed}'`);
  return { ...values, labQuick, seed: Number(seed) };
}

/** What is going on, for whoever waits: not part of the result. */
function say(line: string): void {
  console.error(`bench: ${line}`);
}

function measureNode({ quick, seed }: Options): Pick<Result, 'packets' | 'memory'> {
  say('filling tables with up to 1,000,000 flows');
  const scene = Scene.load();
  try {
    say('nanoseconds per packet');
    const packets = measurePackets(scene, quick ? QUICK : FULL, randomFrom(seed));
    return { packets, memory: measureMemory(scene) };
  } finally {
    scene.close();
  }
}

async function measureRest({ seed, labQuick }: Options): Promise<Pick<Result, 'tc' | 'tax' | 'lab'>> {
  say('the way of a departed process through tc');
  const tc = measureTc(FULL, randomFrom(seed));
  say("the tax on a node's other traffic: filling tables with up to 100,000 bindings");
  const tax = measureTax(FULL, randomFrom(seed));
  const interruption = new AbortController();
  const interrupt = () => interruption.abort();
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt);
  try {
    const { signal } = interruption;
    return { tc, tax, lab: await compareInLab({ ...LAB, quick: labQuick, onProgress: say, signal }) };
  } finally {
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
  }
}

async function main(): Promise<number> {
  let chosen: Options;
  try {
    chosen = options();
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    return 2;
  }
  if (process.getuid?.() !== 0) {
    console.error('bench:datapath loads BPF programs: run it as root (sudo npm run bench:datapath)');
    return NOT_ROOT;
  }
  const result: Result = { ...measureNode(chosen), ...(chosen.quick ? {} : await measureRest(chosen)) };
  console.log(terminalReport(result));
  say(`report: ${writeReport(resolve(chosen.out), result)}`);
  if (chosen.json) console.log(jsonLine(result));
  return 0;
}

process.exitCode = await main();
