/*
 * node dist/test/fault/soak-main.js [--minutes 5] [--seed 1] [--hosts 3] [--processes 3]
 * Moves several processes between all nodes at random, and kills and cuts at random meanwhile; after each round everything
 * must be in order. The seed decides what is tried (when exactly it happens, the machine decides).
 * Exit status: 0 nothing was lost; 1 something was; 130 interrupted.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { downAll } from '../lab/lab-fixture.js';
import { pick, randomFrom, shuffle } from './chance.js';
import { SoakLab, type Subject } from './soak-lab.js';

const text = { type: 'string' } as const;
const { values } = parseArgs({ options: { minutes: text, seed: text, hosts: text, processes: text } });
const minutes = Number(values.minutes ?? 5);
const seed = Number(values.seed ?? 1);
const random = randomFrom(seed);

const SETTLE_MS = 40_000;
const tally = { rounds: 0, asked: 0, moved: 0, daemonKills: 0, criuKills: 0, linkCuts: 0 };
const wrong: string[] = [];
let longestStallMs = 0;

const lab = await SoakLab.start(Number(values.hosts ?? 3), Number(values.processes ?? 3));
const watching = setInterval(() => {
  for (const { load } of lab.subjects) longestStallMs = Math.max(longestStallMs, load.latest('second')?.longestMs ?? 0);
}, 500);
try {
  const end = Date.now() + minutes * 60_000;
  for (let said = Date.now(); Date.now() < end && wrong.length === 0; ) {
    await round();
    if (Date.now() - said < 30_000) continue;
    said = Date.now();
    console.log(`${JSON.stringify(tally)}, longest stall ${longestStallMs.toFixed(0)} ms`);
  }
  clearInterval(watching);
  await hearClients();
} finally {
  clearInterval(watching);
  await downAll();
}

async function round(): Promise<void> {
  tally.rounds++;
  const movers = shuffle(lab.subjects, random).slice(0, 1 + Math.floor(random() * lab.subjects.length));
  const moves = movers.map((subject) => move(subject, pick(lab.nodes, random), random() * 200));
  const happened = random() < 0.7 ? await strike() : 'nothing';
  await Promise.all(moves);
  const faults = await lab.faults(SETTLE_MS);
  const resets = lab.subjects.reduce((sum, { load }) => sum + (load.latest('second')?.resets ?? 0), 0);
  if (resets > 0) faults.push(`${resets} connections were reset`);
  for (const fault of faults) wrong.push(`round ${tally.rounds} (${happened}): ${fault}`);
}

async function move(subject: Subject, to: string, afterMs: number): Promise<void> {
  await sleep(afterMs);
  tally.asked++;
  if (await lab.migrate(subject, to)) tally.moved++;
}

async function strike(): Promise<string> {
  const node = pick(lab.nodes, random);
  const kind = pick(['daemon', 'daemon', 'criu', 'link'] as const, random);
  const [before, during] = [random() * 500, random() * 1500];
  await sleep(before);
  if (kind === 'daemon') {
    await lab.killDaemon(node);
    await sleep(during);
    await lab.startDaemon(node);
    tally.daemonKills++;
  } else if (kind === 'criu') tally.criuKills += lab.killCriu(node);
  else {
    await lab.link(node, 'down');
    await sleep(during);
    await lab.link(node, 'up');
    tally.linkCuts++;
  }
  return `${kind} of ${node}`;
}

async function hearClients(): Promise<void> {
  const sum = { replies: 0, lost: 0, duplicated: 0, wrong: 0, reset: 0 };
  await Promise.all(lab.subjects.map(({ load }) => load.stop()));
  for (const { load } of lab.subjects) {
    const result = load.event('result');
    sum.replies += result.replies;
    sum.lost += result.lost;
    sum.duplicated += result.repeated;
    sum.wrong += result.wrong + result.outOfOrder;
    sum.reset += result.resets;
  }
  for (const fault of wrong) console.log(`FAIL ${fault}`);
  console.log(JSON.stringify({ seed, minutes, ...tally, ...sum, longestStallMs: Math.round(longestStallMs) }));
  process.exitCode = wrong.length > 0 || sum.lost + sum.duplicated + sum.wrong + sum.reset > 0 ? 1 : 0;
}
