import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { Lab } from '../lab/lab.js';
import type { LabNode } from '../lab/lab-node.js';
import { formatMs, quantile, stallWithin } from './analysis.js';
import { homeproxy, type MoveSummary, moveSummary } from './homeproxy-command.js';
import { LoadClient } from './load-client.js';
import { DemoRedis, REDIS_PORT } from './redis.js';
import { type DemoMigration, type DemoOutcome, type DemoResult, violationsOf } from './result.js';
import { decodeSamples, epochNow, type Samples } from './samples.js';
import type { VerifyingResult } from './verifying-client.js';

/** Where the demo tells what it does: a step begins (and goes on, with new details), a step is done. */
export interface DemoSteps {
  start(step: string, detail?: string): void;
  done(step: string, detail?: string): void;
}

export interface DemoOptions {
  readonly lab: string;
  /** Persistent connections that check every reply. */
  readonly connections: number;
  /** Load before, between and after the moves. */
  readonly restMs: number;
  /** Leaves the lab up. */
  readonly keep: boolean;
  readonly signal: AbortSignal;
  readonly steps: DemoSteps;
}

const HOSTS = 2;
const TELL_EVERY_MS = 250;
const ROUTE = ['host1', 'host2', undefined] as const; // undefined: back home

/**
 * Moves a Redis under load home -> host1 -> host2 -> home in a lab of its own, and judges what its client saw. The lab is
 * taken down whatever happens, unless `keep`.
 * @throws {HomeproxyError} what could not be built, started or moved; broken promises are in the result instead
 */
export async function runDemo(options: DemoOptions): Promise<DemoOutcome> {
  const { lab: name, signal, steps } = options;
  await Lab.down(name); // what an earlier demo kept, or could not take down
  try {
    steps.start('lab');
    const onStep = (step: string): void => steps.start('lab', step);
    const lab = await Lab.up({ name, hosts: HOSTS, signal, onStep });
    steps.done('lab', lab.nodes.map((node) => `${node.name} ${node.address}`).join(', '));
    return await perform(lab, options);
  } catch (error) {
    signal.throwIfAborted(); // a Ctrl-C also ends the programs that we were waiting for: say why
    throw error;
  } finally {
    if (!options.keep) {
      steps.start('lab', 'taking it down');
      await Lab.down(name);
      steps.done('lab', 'taken down');
    }
  }
}

async function perform(lab: Lab, options: DemoOptions): Promise<DemoOutcome> {
  const { signal, steps } = options;
  const home = lab.node('home');
  steps.start('redis');
  const redis = await DemoRedis.start(home, signal);
  const { residentBytes } = redis;
  steps.done('redis', `pid ${redis.pid} on home, ${(residentBytes / (1 << 20)).toFixed(1)} MiB resident`);

  const load = await startLoad(lab.node('client'), home, options);
  await rest(load.verifying, options);
  const moves: MoveSummary[] = [];
  for (const to of ROUTE) {
    moves.push(await move(home, redis.pid, to, steps));
    await rest(load.verifying, options);
  }
  steps.start('verify', 'waiting for the last replies');
  const seen = await stopLoad(load);
  const differences = [...(await redis.differences()), ...(await stillDeparted(home))];
  steps.done('verify', `${seen.result.replies.toLocaleString('en')} replies checked`);
  return judge(moves, seen, differences, { pid: redis.pid, residentBytes });
}

interface Load {
  readonly verifying: LoadClient;
  readonly noise: LoadClient;
}

async function startLoad(client: LabNode, home: LabNode, { connections, signal, steps }: DemoOptions): Promise<Load> {
  steps.start('load');
  const server = ['--host', home.address, '--port', String(REDIS_PORT)];
  const verifying = await LoadClient.start(client, 'verifying-client-main', [
    ...server,
    '--connections',
    String(connections),
  ]);
  const noise = await LoadClient.start(client, 'noise-main', server);
  signal.throwIfAborted();
  steps.done('load', `${connections} connections that check every reply, and redis-benchmark beside them`);
  return { verifying, noise };
}

/** Lets the load run for a while, and tells how it does. */
async function rest(verifying: LoadClient, { restMs, signal, steps }: DemoOptions): Promise<void> {
  const end = performance.now() + restMs;
  for (let left = restMs; left > 0; left = end - performance.now()) {
    const second = verifying.latest('second');
    const replies = second === undefined ? '' : `${second.replies.toLocaleString('en')} replies checked`;
    steps.start('load', second?.resets ? `${replies}, ${second.resets} RESETS` : replies);
    await sleep(Math.min(TELL_EVERY_MS, left), undefined, { signal });
  }
}

async function move(home: LabNode, pid: number, to: string | undefined, steps: DemoSteps): Promise<MoveSummary> {
  const step = to === undefined ? 'recall' : `to ${to}`;
  const words = to === undefined ? ['recall', String(pid)] : ['migrate', String(pid), to];
  steps.start(step, `homeproxy ${words.join(' ')}`);
  const summary = await homeproxy(home, words, moveSummary);
  steps.done(step, `homeproxy ${words.join(' ')}: frozen for ${formatMs(summary.freezeMs)}`);
  return summary;
}

interface Seen {
  readonly samples: Samples;
  readonly result: VerifyingResult;
  readonly noise: DemoResult['noise'];
}

async function stopLoad({ verifying, noise }: Load): Promise<Seen> {
  await Promise.all([verifying.stop(), noise.stop()]);
  const { event: _, ...counted } = noise.event('noise');
  return { samples: decodeSamples(verifying.event('samples')), result: verifying.event('result'), noise: counted };
}

async function stillDeparted(home: LabNode): Promise<string[]> {
  const rows = z.object({ processes: z.array(z.object({ pid: z.number(), role: z.string(), location: z.string() })) });
  const { processes } = await homeproxy(home, ['ps'], rows);
  return processes.map(({ pid, role, location }) => `homeproxy ps still shows process ${pid}: ${role}, ${location}`);
}

function judge(
  moves: readonly MoveSummary[],
  { samples, result: seen, noise }: Seen,
  differences: readonly string[],
  redis: DemoResult['redis'],
): DemoOutcome {
  const migrations = moves.map((summary): DemoMigration => {
    const window = { from: summary.startedAt, to: summary.startedAt + summary.totalMs };
    const stallMs = stallWithin(samples, window, seen.unansweredSince, seen.endedAt);
    const { from, to, outcome, freezeMs, ...rest } = summary;
    return { from, to, outcome, freezeMs, stallMs: Math.round(stallMs * 100) / 100, ...rest };
  });
  const result = {
    migrations,
    replies: seen.replies,
    lostReplies: seen.lost,
    resets: seen.resets,
    repeatedReplies: seen.repeated,
    outOfOrderReplies: seen.outOfOrder,
    wrongReplies: seen.wrong,
    connections: seen.connections,
    medianMs: Math.round(quantile(samples.latencyMs, 0.5) * 1000) / 1000,
    redis,
    noise,
  };
  const violations = [...violationsOf(result, seen.resetReasons), ...differences];
  return {
    result: { ...result, violations },
    picture: {
      samples,
      from: seen.startedAt,
      to: Math.min(seen.endedAt, epochNow()),
      moves: migrations.map((move) => ({ ...move, endedAt: move.startedAt + move.totalMs })),
    },
  };
}
