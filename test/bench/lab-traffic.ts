import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { BugError } from '../../cli/errors.js';
import type { LabNode } from '../../cli/lab/lab-node.js';

/** What is measured of a path. Upload is what the client sends: the direction that crosses the home node. */
export const KINDS = ['upload', 'download', 'requests', 'connects', 'rtt'] as const;
export type Kind = (typeof KINDS)[number];

/** The ports of one set of servers. */
export interface Ports {
  readonly iperf: number;
  readonly redis: number;
  readonly sockperf: number;
}

/** One end of a measurement: where the client connects to, and what bounds each run. */
export interface Target {
  readonly client: LabNode;
  readonly address: string;
  readonly ports: Ports;
  readonly env: NodeJS.ProcessEnv;
  readonly seconds: number;
  readonly signal: AbortSignal;
}

export interface Sample {
  /** Bits per second, requests per second, new connections with one request each per second, microseconds. */
  readonly value: number;
  /** CPU time that the whole machine spent, in seconds per GB moved or per million requests; none for `rtt`. */
  readonly cpu?: number;
}

/**
 * Programs that make requests, each with its share of the connections. One alone, which has one thread, does not keep both
 * processors busy, and in a lab all that the network does with a request, on whichever node, is done on the processor of who
 * sent it: the rate would say how much that one thread has to do, not what a path costs.
 */
const CLIENTS = 4;
const CONNECTIONS = '8';
const TRIAL_REQUESTS = 4000;
const LIMIT_MS = 60_000;
/**
 * The machine's default may pace by its clock (BBR): then a path is judged by timers and not by what it costs. Reno is the one
 * that every namespace may choose (tcp_set_default_congestion_control).
 */
export const CONGESTION_CONTROL = 'reno';

/** Measures one thing once. @throws {ExternalError} `COMMAND_FAILED` when a tool fails */
export async function measure(kind: Kind, target: Target): Promise<Sample> {
  switch (kind) {
    case 'upload':
      return await throughput(target, []);
    case 'download':
      return await throughput(target, ['--reverse']);
    case 'requests':
      return await requests(target, []);
    case 'connects':
      return await requests(target, ['-k', '0']);
    case 'rtt':
      return { value: await roundTrip(target) };
  }
}

const iperfReport = z.object({
  end: z.object({ sum_received: z.object({ bytes: z.number(), bits_per_second: z.number() }) }),
});

async function throughput(target: Target, direction: readonly string[]): Promise<Sample> {
  const { address, ports, seconds } = target;
  const where = ['--client', address, '--port', String(ports.iperf), '--time', String(Math.ceil(seconds))];
  const before = machineCpuSeconds();
  const command = ['iperf3', '--json', '--congestion', CONGESTION_CONTROL, ...where, ...direction];
  const stdout = await runTool(target, command);
  const spent = machineCpuSeconds() - before;
  const { bytes, bits_per_second } = iperfReport.parse(JSON.parse(stdout)).end.sum_received;
  return { value: bits_per_second, cpu: (spent / bytes) * 1e9 };
}

/** Requests for `seconds`: as many as a short trial says. */
async function requests(target: Target, connections: readonly string[]): Promise<Sample> {
  const trial = await redisBenchmark(target, connections, TRIAL_REQUESTS);
  const count = Math.max(TRIAL_REQUESTS, Math.round(trial * target.seconds));
  const before = machineCpuSeconds();
  const value = await redisBenchmark(target, connections, count);
  return { value, cpu: ((machineCpuSeconds() - before) / count) * 1e6 };
}

/** @returns requests per second of all clients together */
async function redisBenchmark(target: Target, connections: readonly string[], count: number): Promise<number> {
  const each = String(Math.round(count / CLIENTS));
  const where = ['-h', target.address, '-p', String(target.ports.redis), '-c', CONNECTIONS, '-n', each];
  const command = ['redis-benchmark', ...where, ...connections, '-t', 'get', '--csv'];
  const printed = await Promise.all(Array.from({ length: CLIENTS }, () => runTool(target, command)));
  return printed.reduce((sum, stdout) => sum + parseRedisBenchmark(stdout), 0);
}

/** Requests per second in what `redis-benchmark --csv` printed. */
export function parseRedisBenchmark(stdout: string): number {
  return numberOf(stdout, /^"GET","([\d.]+)"/m, 'redis-benchmark');
}

async function roundTrip(target: Target): Promise<number> {
  const { address, ports, seconds } = target;
  const where = ['--tcp', '-i', address, '-p', String(ports.sockperf), '-t', String(Math.ceil(seconds))];
  return parseSockperf(await runTool(target, ['sockperf', 'ping-pong', '--full-rtt', ...where]));
}

/** The median in what `sockperf ping-pong --full-rtt` printed, in microseconds. */
export function parseSockperf(stdout: string): number {
  return numberOf(stdout, /percentile 50\.000 = +([\d.]+)/, 'sockperf');
}

async function runTool({ client, env, signal }: Target, command: readonly string[]): Promise<string> {
  return (await client.run(command, { env, signal, timeoutMs: LIMIT_MS })).stdout;
}

function numberOf(text: string, pattern: RegExp, program: string): number {
  const value = Number(pattern.exec(text)?.[1]);
  if (Number.isFinite(value) && value > 0) return value;
  throw new BugError(`${program} printed something unexpected: ${text.slice(-300)}`);
}

const TICKS_PER_SECOND = 100; // USER_HZ, fixed in the ABI of /proc

/** CPU time that this machine has spent on anything but idling since it started, in seconds (proc(5), /proc/stat). */
export function machineCpuSeconds(): number {
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] =
    readFileSync('/proc/stat', 'utf8').split('\n', 1)[0]?.split(/ +/).slice(1).map(Number) ?? [];
  return (user + nice + system + irq + softirq) / TICKS_PER_SECOND;
}
