import { setTimeout as sleep } from 'node:timers/promises';
import { letRestoreFail } from '../lab/failing-restore.js';
import { type NodeCommand, startHomeproxy } from '../lab/node-command.js';
import { daemonOf, type FaultCase, nodeOf } from './cases.js';
import type { FaultLab } from './fault-lab.js';

export interface CaseResult {
  readonly case: FaultCase;
  /** `unreached`: this migration does not come to that step, or the victim does not live then. */
  readonly outcome: 'moved' | 'stayed' | 'unreached';
  /** What the migration ended with: why it did not come to the step, for example. */
  readonly said: string;
  readonly faults: readonly string[];
  /** The longest that a client of the process waited meanwhile, in milliseconds. */
  readonly stallMs: number;
  readonly seconds: number;
}

const ARRIVE_MS = 12_000;
const SETTLE_MS = 25_000;
const CUT_MS = 1200;
/** All clients are served again when none waits longer than this. */
const SERVED_MS = 400;
const SERVED_WITHIN = 20;

/** Runs one case, from a calm lab to a calm lab. It never throws: whatever goes wrong is a fault of the case. */
export async function runCase(lab: FaultLab, fault: FaultCase): Promise<CaseResult> {
  const started = Date.now();
  const faults: string[] = [];
  let outcome: CaseResult['outcome'] = 'unreached';
  let stallMs = 0;
  let said = '';
  try {
    await lab.moveTo(fault.from);
    const clear = await putObstacle(lab, fault);
    const observed = observeStall(lab);
    try {
      const { reached, answer } = await strike(lab, fault).finally(clear);
      said = answer;
      faults.push(...(await lab.faults(SETTLE_MS)));
      if (reached) outcome = (await lab.location()) === fault.to ? 'moved' : 'stayed';
      faults.push(...(await served(lab)));
    } finally {
      stallMs = observed(); // also ends it: a case that failed must not keep the matrix from ending
    }
  } catch (error) {
    faults.push(`threw: ${(error as Error).message}`);
  }
  return { case: fault, outcome, said, faults, stallMs, seconds: (Date.now() - started) / 1000 };
}

/**
 * Starts the migration, stops it at the step, does what the case says, and lets it go on.
 * @returns whether it came to that, and what the migration ended with.
 */
async function strike(lab: FaultLab, fault: FaultCase): Promise<{ reached: boolean; answer: string }> {
  const { step, victim, to } = fault;
  const postCopy = fault.memory === 'later';
  if (step === undefined) return { reached: true, answer: await answerOf(lab.migrate(to, { postCopy })) };
  const stopped = nodeOf(step, fault);
  lab.stopAt(stopped, step);
  let ended = false;
  let command: NodeCommand | undefined;
  let migration: Promise<unknown>;
  if (victim === 'cli') {
    const how = postCopy ? ['--mode', 'post-copy'] : [];
    command = startHomeproxy(lab.node('home'), ['migrate', String(lab.redis.pid), to, ...how, '--json']);
    migration = command.ended;
  } else migration = lab.migrate(to, { postCopy });
  const started = Date.now();
  const settled = answerOf(migration).then((answer) => {
    ended = true;
    return answer;
  });
  for (const deadline = Date.now() + ARRIVE_MS; !lab.arrived(stopped); await sleep(3)) {
    if (ended || Date.now() > deadline) {
      const after = `${ended ? 'ended' : 'still under way'} after ${Date.now() - started} ms`;
      lab.goOn(stopped);
      return { reached: false, answer: `${after}: ${await settled}` };
    }
  }
  const happened = await injure(lab, fault, command);
  return { reached: happened, answer: await settled };
}

/** What a migration ends with, in words. */
async function answerOf(migration: Promise<unknown>): Promise<string> {
  return migration.then(
    (result) => JSON.stringify(result) ?? '',
    (error: unknown) => (error instanceof Error ? `${error.name}: ${error.message}` : String(error)),
  );
}

async function injure(lab: FaultLab, fault: FaultCase, command: NodeCommand | undefined): Promise<boolean> {
  const { step, victim, from, to } = fault;
  const stopped = nodeOf(step ?? 'coordinator:done', fault);
  const daemon = daemonOf(victim, fault);
  if (daemon !== undefined) {
    await lab.killDaemon(daemon);
    if (daemon !== stopped) lab.goOn(stopped);
    await sleep(150);
    await lab.startDaemon(daemon);
    return true;
  }
  let happened = true;
  if (victim === 'criu-at-source') happened = lab.killCriu(from) > 0;
  if (victim === 'criu-at-destination') happened = lab.killCriu(to) > 0;
  if (victim === 'pagers') happened = lab.killPagers(to) > 0;
  if (victim === 'cli') command?.kill('SIGKILL');
  if (victim === 'control-cut' || victim === 'data-cut') {
    const node = lab.node(victim === 'control-cut' ? to : from);
    await node.run(['ip', 'link', 'set', 'eth0', 'down']);
    lab.goOn(stopped);
    await sleep(CUT_MS);
    await node.run(['ip', 'link', 'set', 'eth0', 'up']);
  }
  lab.goOn(stopped);
  return happened;
}

async function putObstacle(lab: FaultLab, { obstacle, to }: FaultCase): Promise<() => Promise<void>> {
  const node = lab.node(to);
  if (obstacle === 'restore-fails') return letRestoreFail(node);
  if (obstacle === 'disk-full') {
    const images = '/run/homeproxy/images';
    await node.run(['mkdir', '-p', images]);
    await node.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'lab', images]);
    return async () => void (await node.run(['umount', images]));
  }
  return async () => undefined;
}

/** Waits until every client of the process gets its replies in time again. @returns what is wrong when they do not. */
async function served(lab: FaultLab): Promise<string[]> {
  let last = await lab.load.nextSecond();
  for (let second = 0; second < SERVED_WITHIN; second++) {
    if (last.resets > 0) return [`${last.resets} connections were reset`];
    if (last.longestMs < SERVED_MS) return [];
    last = await lab.load.nextSecond();
  }
  return [`after ${SERVED_WITHIN} s a client still waits: ${last.longestMs.toFixed(0)} ms`];
}

/** @returns a function that ends it and says how long a client waited since. */
function observeStall(lab: FaultLab): () => number {
  let longest = 0;
  const timer = setInterval(() => {
    longest = Math.max(longest, lab.load.progress.longestMs);
  }, 400);
  return () => {
    clearInterval(timer);
    return Math.max(longest, lab.load.progress.longestMs);
  };
}
