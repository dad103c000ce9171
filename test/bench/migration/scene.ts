import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BugError } from '../../../cli/errors.js';
import { Lab } from '../../../cli/lab/lab.js';
import { labCgroup } from '../../../cli/lab/lab-cgroup.js';
import type { LabNode } from '../../../cli/lab/lab-node.js';
import { migrateMethod } from '../../../cli/node/control-methods.js';
import { streamControl } from '../../../cli/node/control-transport.js';
import { installFrom, startServer } from '../../lab/c-program.js';
import { NodeCommand } from '../../lab/node-command.js';
import { Asking } from './asking.js';
import type { Case, Mode } from './cases.js';

const PORT = 7400;
const RAW_PORT = 7401;
const START_MS = 120_000;
const RAW_MS = 120_000;
/** Nothing is rolled back because it takes long: that is what is to be seen. */
const MAX_FREEZE_MS = 120_000;
const FOLDER = 'bench/migration';
/** The client meets the process as it is between two moves. */
const REST_MS = 300;
/** The process's own work is measured for so long before it moves. */
const BEFORE_MS = 1500;

/** One move, measured. */
export interface Sample {
  readonly freezeMs: number;
  /** The longest answer that a client of it got, which asks every millisecond. */
  readonly stallMs: number;
  readonly totalMs: number;
  readonly bytes: number;
  /** Of both nodes, all that moves it included. */
  readonly cpuMs: number;
  readonly phases: Readonly<Record<string, number>>;
}

/** A lab of a home, one host and a client. */
export class Scene {
  private constructor(
    readonly lab: Lab,
    private readonly programs: { readonly ballast: string; readonly asking: string; readonly raw: string },
  ) {}

  static async up(name: string, options: { readonly daemons: boolean; readonly signal: AbortSignal }): Promise<Scene> {
    const lab = await Lab.up({ name, hosts: 1, offloads: true, attach: 'tc', ...options });
    try {
      const nodes = [lab.node('home'), lab.node('host1'), lab.node('client')];
      const [ballast, asking, raw] = [
        await installFrom(FOLDER, 'ballast', ...nodes),
        await installFrom(FOLDER, 'asking', ...nodes),
        await installFrom(FOLDER, 'raw-tcp', ...nodes),
      ];
      return new Scene(lab, { ballast, asking, raw });
    } catch (error) {
      await Lab.down(name);
      throw error;
    }
  }

  get home(): LabNode {
    return this.lab.node('home');
  }

  get host(): LabNode {
    return this.lab.node('host1');
  }

  /** The server whose memory moves. */
  get program(): string {
    return this.programs.ballast;
  }

  get rawTcp(): string {
    return this.programs.raw;
  }

  async down(): Promise<void> {
    await Lab.down(this.lab.name);
  }

  /** Starts the process at home, and its client. @param address default: the home's. */
  async start(what: Case, address = this.home.address, work = false): Promise<Subject> {
    const command = [...this.ballast(what, address), ...(work ? ['work'] : [])];
    const pid = await startServer(this.home, command, PORT, START_MS);
    return { pid, asking: await this.ask(what, address), connections: what.connections };
  }

  ballast({ memoryMB, writerMBps }: Case, address: string): string[] {
    return [this.program, address, ...[PORT, memoryMB, writerMBps].map(String)];
  }

  /** Starts the client of a process that listens. */
  async ask({ connections }: Case, address: string): Promise<Asking> {
    return await Asking.start(this.lab.node('client'), this.programs.asking, address, PORT, connections);
  }

  async end({ pid, asking }: Subject, where = this.home): Promise<void> {
    await asking.close();
    const machinePid = where.machinePid(pid);
    if (machinePid === undefined) throw new BugError(`process ${pid} is not on ${where.name}`);
    process.kill(machinePid, 'SIGKILL');
    while (where.machinePid(pid) !== undefined) await sleep(10);
  }

  /** Moves it away, or home. */
  async move({ pid, asking, connections }: Subject, to: 'host1' | 'home', mode: Mode): Promise<Sample> {
    await sleep(REST_MS);
    await asking.mark();
    const before = this.cpuMs();
    const where = to === 'home' ? {} : { to };
    const how = { copyAhead: mode !== 'stop-and-copy', postCopy: mode === 'post-copy' };
    const request = { pid, ...where, ...how, maxFreezeMs: MAX_FREEZE_MS };
    const socket = this.home.path('/run/homeproxy/control.sock');
    const { freezeMs, totalMs, bytesMoved, phases } = await streamControl(
      socket,
      migrateMethod,
      request,
      () => undefined,
    );
    const cpuMs = this.cpuMs() - before;
    const stallMs = await asking.longest();
    const right = await asking.all();
    if (right !== connections - 1) throw new BugError(`${connections - 1 - right} connections do not answer any more`);
    return { freezeMs, stallMs, totalMs, bytes: bytesMoved, cpuMs, phases };
  }

  /** How much of the work that it did before a process does while it is copied; the rest is what that costs it. */
  async workKept(what: Case): Promise<number> {
    const subject = await this.start(what, this.home.address, true);
    await sleep(BEFORE_MS);
    const socket = this.home.path('/run/homeproxy/control.sock');
    const request = { pid: subject.pid, to: 'host1', maxFreezeMs: MAX_FREEZE_MS };
    const { startedAt, frozenAt } = await streamControl(socket, migrateMethod, request, () => undefined);
    const { series } = subject.asking;
    await this.recall(subject);
    await this.end(subject);
    const rate = (from: number, to: number): number => {
      const within = series.filter(([atMs]) => atMs >= from && atMs <= to);
      const [first, last] = [within[0], within.at(-1)];
      if (first === undefined || last === undefined || last[0] <= first[0]) return Number.NaN;
      return (last[1] - first[1]) / (last[0] - first[0]);
    };
    return rate(startedAt, frozenAt) / rate(startedAt - BEFORE_MS, startedAt);
  }

  async recall({ pid }: Subject): Promise<void> {
    const socket = this.home.path('/run/homeproxy/control.sock');
    await streamControl(socket, migrateMethod, { pid, maxFreezeMs: MAX_FREEZE_MS }, () => undefined);
  }

  /** Milliseconds that so many MiB take from the home to the host over one TCP connection, to the last byte's arrival. */
  async rawTcpMs(memoryMB: number): Promise<number> {
    const receiver = new NodeCommand(this.host, [
      'sh',
      '-c',
      `exec ${this.programs.raw} receive ${RAW_PORT} >/dev/null`,
    ]);
    receiver.finishInput();
    await listening(this.host, RAW_PORT);
    const send = [this.programs.raw, 'send', this.host.address, String(RAW_PORT), String(memoryMB)];
    const { stdout } = await this.home.run(send, { timeoutMs: RAW_MS });
    await receiver.ended;
    return Number(stdout);
  }

  private cpuMs(): number {
    return ['home', 'host1'].reduce((sum, node) => {
      const stat = readFileSync(join(labCgroup(this.lab.name), node, 'cpu.stat'), 'utf8');
      return sum + Number(/^usage_usec (\d+)$/m.exec(stat)?.[1]) / 1000;
    }, 0);
  }
}

export interface Subject {
  readonly pid: number;
  readonly asking: Asking;
  readonly connections: number;
}

/** Waits until something listens on a port of a node. @param port default: that of the process */
export async function listening(node: LabNode, port = PORT): Promise<void> {
  const hex = `:${port.toString(16).toUpperCase().padStart(4, '0')} 00000000:0000 0A`;
  for (const deadline = Date.now() + 10_000; Date.now() < deadline; await sleep(5)) {
    if (readFileSync(`/proc/${node.initPid}/net/tcp`, 'utf8').includes(hex)) return;
  }
  throw new BugError(`nothing listens on port ${port} of ${node.name}`);
}
