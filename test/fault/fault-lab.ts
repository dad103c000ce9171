import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { z } from 'zod';
import { DAEMON_LOG } from '../../cli/lab/daemon.js';
import { DAEMON_CGROUP } from '../../cli/lab/holder.js';
import { Lab } from '../../cli/lab/lab.js';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { readPagerState } from '../../cli/memory/pager.js';
import type { StepName } from '../../cli/migration/steps.js';
import { journalMethod, migrateMethod, psMethod, statusMethod } from '../../cli/node/control-methods.js';
import { callControl, streamControl } from '../../cli/node/control-transport.js';
import type { Method } from '../../cli/node/method.js';
import { lastLines } from '../../cli/system/command.js';
import { readProcess, readText } from '../../cli/system/procfs.js';
import { projectFile } from '../../cli/system/project.js';
import { copiesOf, processesOf } from '../lab/copies.js';
import { labName } from '../lab/lab-fixture.js';
import { Load } from '../lab/load.js';
import { killQuietly } from '../lab/node-command.js';
import { type Redis, startRedis } from '../lab/redis.js';
import { tracesOf } from '../lab/traces.js';
import { ARRIVED, GO, STOP_AT } from './fault-files.js';

export const SERVER = 'redis-server';
export const DAEMON_NODES = ['home', 'host1', 'host2'] as const;
export type DaemonNode = (typeof DAEMON_NODES)[number];

/** A lab whose daemons stop at steps, with Redis at home and a verifying client. */
export class FaultLab {
  private readonly daemons = new Map<DaemonNode, number>();
  /** What there is on the nodes while the process is at a place and nothing goes on. */
  private readonly calm = new Map<string, Record<string, string[]>>();

  private constructor(
    readonly lab: Lab,
    readonly redis: Redis,
    readonly load: Load,
  ) {}

  /** @param megabytes of values that Redis has */
  static async start(purpose: string, megabytes = 0): Promise<FaultLab> {
    const lab = await Lab.up({ name: labName(purpose), hosts: 2, daemons: false });
    const redis = await startRedis(lab.node('home'));
    const load = await Load.start(lab.node('client'), lab.node('home').address, {
      connections: 20,
      paceMs: 10,
      graceMs: 20_000,
    });
    if (megabytes > 0) await fill(lab.node('home'), megabytes);
    const made = new FaultLab(lab, redis, load);
    await Promise.all(DAEMON_NODES.map((node) => made.startDaemon(node)));
    return made;
  }

  node(name: DaemonNode): LabNode {
    return this.lab.node(name);
  }

  /** @param step it stops there, if it comes there while it takes up what it finds. */
  async startDaemon(name: DaemonNode, step?: StepName): Promise<void> {
    const node = this.node(name);
    for (const file of [STOP_AT, ARRIVED, GO]) rmSync(node.path(file), { force: true });
    if (step !== undefined) this.stopAt(name, step);
    let answer: Promise<void> = Promise.resolve();
    const inside = await node.detach([process.execPath, projectFile('dist/test/fault/daemon-main.js'), 'up'], {
      cgroup: DAEMON_CGROUP,
      output: DAEMON_LOG,
      env: { HOMEPROXY_READY_FD: '3' },
      onStart: (stream) => {
        answer = new Promise((resolve, reject) => {
          stream.once('data', () => resolve());
          const failed = (): void => reject(new Error(`the daemon of ${name} ended: ${this.logOf(name)}`));
          stream.once('end', failed).once('error', failed);
        });
        answer.catch(() => undefined);
      },
    });
    await answer;
    this.daemons.set(name, node.machinePid(inside) ?? 0);
  }

  /** The end of a daemon's log. */
  logOf(name: DaemonNode): string {
    return lastLines(readText(this.node(name).path(DAEMON_LOG)) ?? '', 8).join('\n');
  }

  async killDaemon(name: DaemonNode): Promise<void> {
    const pid = this.daemons.get(name) ?? 0;
    killQuietly(pid, 'SIGKILL');
    while (![undefined, 'Z'].includes(readProcess(pid)?.state)) await sleep(2);
  }

  stopAt(name: DaemonNode, step: StepName): void {
    for (const file of [ARRIVED, GO]) rmSync(this.node(name).path(file), { force: true });
    writeFileSync(this.node(name).path(STOP_AT), step);
  }

  arrived(name: DaemonNode): boolean {
    return existsSync(this.node(name).path(ARRIVED));
  }

  /** @param next where it stops again. */
  goOn(name: DaemonNode, next?: StepName): void {
    rmSync(this.node(name).path(ARRIVED), { force: true });
    if (next === undefined) rmSync(this.node(name).path(STOP_AT), { force: true });
    else writeFileSync(this.node(name).path(STOP_AT), next);
    writeFileSync(this.node(name).path(GO), '');
  }

  /** Kills the CRIUs of a node, and nothing else. @returns how many there were. */
  killCriu(name: DaemonNode): number {
    const found = processesOf(this.lab).filter(
      ({ node, machinePid }) => node === name && readText(`/proc/${machinePid}/comm`)?.trim() === 'criu',
    );
    for (const { machinePid } of found) killQuietly(machinePid, 'SIGKILL');
    return found.length;
  }

  socket(name: DaemonNode): string {
    return this.node(name).path('/run/homeproxy/control.sock');
  }

  async ask<Request extends z.ZodType, Response extends z.ZodType>(
    name: DaemonNode,
    method: Method<Request, Response>,
    request: z.input<Request>,
  ): Promise<z.output<Response>> {
    return callControl(this.socket(name), method, request);
  }

  /** Kills the one that serves and the one that stands by, where memory follows a process to a node. @returns how many there were. */
  killPagers(name: DaemonNode): number {
    const folder = this.node(name).path('/run/homeproxy/images');
    const states = existsSync(folder) ? readdirSync(folder).map((images) => readPagerState(join(folder, images))) : [];
    const pids = states
      .filter((state) => state?.stage === 'serving')
      .flatMap((state) => [state?.serving ?? 0, state?.standingBy ?? 0])
      .flatMap((inside) => this.node(name).machinePid(inside) ?? []);
    for (const signal of ['SIGSTOP', 'SIGKILL'] as const) for (const pid of pids) killQuietly(pid, signal);
    return pids.length;
  }

  async migrate(
    to: DaemonNode,
    how: Omit<z.input<typeof migrateMethod.request>, 'pid' | 'to'> = {},
    signal?: AbortSignal,
  ): Promise<unknown> {
    return streamControl(
      this.socket('home'),
      migrateMethod,
      { pid: this.redis.pid, to, ...how },
      () => undefined,
      signal,
    );
  }

  /** Where the home node says that the process is. */
  async location(): Promise<DaemonNode> {
    const { processes } = await this.ask('home', psMethod, {});
    return (processes.find(({ pid }) => pid === this.redis.pid)?.location ?? 'home') as DaemonNode;
  }

  async moveTo(place: DaemonNode): Promise<void> {
    if ((await this.location()) !== place) await this.migrate(place);
  }

  /** Takes note of what is on the nodes with the process at each place. */
  async learn(): Promise<void> {
    for (const place of ['home', 'host1', 'host2', 'home'] as const) {
      await this.moveTo(place);
      this.calm.set(place, await this.traces());
    }
  }

  /** Everything that is wrong now, in words; waits until it is right, `limitMs` at most. */
  async faults(limitMs: number): Promise<string[]> {
    for (const deadline = Date.now() + limitMs; ; await sleep(60)) {
      const found = await this.look().catch((error: unknown) => [`cannot look: ${(error as Error).message}`]);
      if (found.length === 0 || Date.now() > deadline) return found;
    }
  }

  private async look(): Promise<string[]> {
    const faults: string[] = [];
    const place = await this.location();
    const copies = copiesOf(this.lab, SERVER);
    const where = copies.map(
      ({ node, depth, live }) => `${node}${depth > 1 ? ' in a pod' : ''}${live ? '' : ' stopped'}`,
    );
    const expected = place === 'home' ? 'home' : `${place} in a pod`;
    if (where.join() !== expected) return [`copies: ${where.join(', ') || 'none'}; the home says ${place}`];
    for (const name of DAEMON_NODES) {
      const [status, journal] = await Promise.all([
        this.ask(name, statusMethod, {}),
        this.ask(name, journalMethod, { last: 5 }),
      ]);
      if (status.moving.length > 0) faults.push(`${name}: still moving`);
      if (status.residents !== (name === place ? Number(place !== 'home') : 0)) {
        faults.push(`${name}: ${status.residents} residents`);
      }
      for (const { migration, state } of journal.migrations) {
        if (!['done', 'rolled-back', 'taken-part'].includes(state)) faults.push(`${name}: ${migration} is ${state}`);
      }
      if (journal.departing.length > 0) faults.push(`${name}: departing ${journal.departing.join()}`);
      if (journal.arriving.length > 0) faults.push(`${name}: arriving ${journal.arriving.join()}`);
    }
    if (faults.length > 0) return faults;
    const calm = this.calm.get(place);
    if (calm === undefined) return faults;
    const traces = await this.traces();
    for (const name of DAEMON_NODES) {
      const before = calm[name] ?? [];
      const now = traces[name] ?? [];
      faults.push(...without(now, before).map((trace) => `${name}: left over: ${trace}`));
      faults.push(...without(before, now).map((trace) => `${name}: missing: ${trace}`));
    }
    return faults;
  }

  private async traces(): Promise<Record<string, string[]>> {
    const all = await Promise.all(
      DAEMON_NODES.map(async (name) => {
        const found = await tracesOf(this.lab, name);
        // counters appear with the first packet that they count
        return [name, found.filter((trace) => !/^map .*counters/.test(trace))] as const;
      }),
    );
    return Object.fromEntries(all);
  }

  /** Bytes of a file in a node. */
  read(name: DaemonNode, path: string): string {
    return readFileSync(this.node(name).path(path), 'utf8');
  }
}

/** Gives Redis values of a megabyte each. */
async function fill(node: LabNode, megabytes: number): Promise<void> {
  const script = "for i = 1, ARGV[1] do redis.call('SET', 'ballast:' .. i, string.rep('x', 1048576)) end";
  await node.run(['redis-cli', '-e', 'EVAL', script, '0', String(megabytes)]);
}

/** The texts of one list that the other does not have, each counted. */
function without(list: readonly string[], other: readonly string[]): string[] {
  const rest = [...other];
  return list.filter((text) => {
    const index = rest.indexOf(text);
    if (index === -1) return true;
    rest.splice(index, 1);
    return false;
  });
}
