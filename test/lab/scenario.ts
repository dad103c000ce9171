import { setTimeout as sleep } from 'node:timers/promises';
import type { z } from 'zod';
import { Lab, type LabOptions } from '../../cli/lab/lab.js';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { hostsMethod, migrationSummary, psMethod, statusMethod } from '../../cli/node/control-methods.js';
import { callControl } from '../../cli/node/control-transport.js';
import { labName } from './lab-fixture.js';
import { type Outcome, runHomeproxy } from './node-command.js';
import { tracesOfAll } from './traces.js';

export type Summary = z.output<typeof migrationSummary>;
type Processes = z.output<typeof psMethod.response>['processes'];
type Hosts = z.output<typeof hostsMethod.response>['hosts'];
type Status = z.output<typeof statusMethod.response>;

/** The error document of `--json`. */
export interface JsonError {
  readonly code: string;
  readonly kind: string;
  readonly message: string;
  readonly remedy?: string;
  readonly exitStatus: number;
}

/** A lab with its daemons, and what an administrator does on its nodes. */
export class Scenario {
  private constructor(
    readonly lab: Lab,
    /** What there was on the daemons' nodes before anything moved. */
    readonly untouched: Readonly<Record<string, string[]>>,
  ) {}

  static async start(purpose: string, options: Partial<LabOptions> = {}): Promise<Scenario> {
    const lab = await Lab.up({ ...options, name: labName(purpose) });
    const daemons = lab.nodes.filter(({ role }) => role !== 'client').map(({ name }) => name);
    return new Scenario(lab, await rested(lab, daemons));
  }

  get home(): LabNode {
    return this.lab.node('home');
  }

  get client(): LabNode {
    return this.lab.node('client');
  }

  /** Runs `homeproxy` with its arguments on a node. */
  async homeproxy(node: string, args: readonly string[]): Promise<Outcome> {
    return await runHomeproxy(this.lab.node(node), args);
  }

  /** Moves a process; it must succeed. */
  async migrate(pid: number, to: string): Promise<Summary> {
    return migrationSummary.parse(await this.#json('home', ['migrate', String(pid), to]));
  }

  /** Brings a process home; it must succeed. */
  async recall(pid: number): Promise<Summary> {
    return migrationSummary.parse(await this.#json('home', ['recall', String(pid)]));
  }

  async ps(node: string): Promise<Processes> {
    return psMethod.response.parse(await this.#json(node, ['ps'])).processes;
  }

  async hosts(node: string): Promise<Hosts> {
    return hostsMethod.response.parse(await this.#json(node, ['hosts'])).hosts;
  }

  async status(node: string): Promise<Status> {
    return statusMethod.response.parse(await this.#json(node, ['status']));
  }

  /** What a daemon says, without the command in between: quicker, for those who ask often. */
  async ask(node: string): Promise<{ processes: Processes; status: Status }> {
    const socket = this.lab.node(node).path('/run/homeproxy/control.sock');
    const [{ processes }, status] = await Promise.all([
      callControl(socket, psMethod, {}),
      callControl(socket, statusMethod, {}),
    ]);
    return { processes, status };
  }

  /** Waits until no migration is under way on a node. @throws {Error} after 20 s */
  async settled(node: string): Promise<Status> {
    for (const deadline = Date.now() + 20_000; ; await sleep(50)) {
      const { status } = await this.ask(node);
      if (status.moving.length === 0) return status;
      if (Date.now() > deadline) throw new Error(`still moving on ${node} after 20 s: ${JSON.stringify(status)}`);
    }
  }

  /** A daemon's pid on this machine. */
  async daemonPid(node: string): Promise<number> {
    const status = await Lab.status(this.lab.name);
    const daemon = status.nodes.find(({ name }) => name === node)?.daemon;
    if (daemon?.running !== true) throw new Error(`no daemon runs on ${node}`);
    return daemon.pid;
  }

  async #json(node: string, args: readonly string[]): Promise<unknown> {
    const outcome = await this.homeproxy(node, [...args, '--json']);
    if (outcome.status !== 0) throw new Error(`${args.join(' ')} on ${node}: ${describe(outcome)}`);
    return oneLine(outcome);
  }
}

/** The traces of nodes whose daemons have come to rest: a young one rehearses the way of the images. */
export async function rested(lab: Lab, nodes: readonly string[]): Promise<Record<string, string[]>> {
  for (const deadline = Date.now() + 20_000; ; await sleep(50)) {
    const traces = await tracesOfAll(lab, nodes);
    const images = Object.values(traces).flatMap((found) => found.filter((trace) => trace.startsWith('images ')));
    if (images.length === 0) return traces;
    if (Date.now() > deadline) throw new Error(`after 20 s there still are ${images.join(', ')}`);
  }
}

/** The one line of JSON that a command printed. @throws {Error} when it printed anything else */
export function oneLine(outcome: Outcome): unknown {
  const lines = outcome.stdout.split('\n');
  if (lines.length !== 2 || lines[1] !== '') throw new Error(`not one line of JSON: ${describe(outcome)}`);
  return JSON.parse(lines[0] ?? '');
}

/** The error that a command printed under `--json`. @throws {Error} when it printed anything else */
export function errorOf(outcome: Outcome): JsonError {
  const document = oneLine(outcome) as { error?: JsonError };
  if (document.error === undefined) throw new Error(`no error: ${describe(outcome)}`);
  return document.error;
}

export function describe({ status, stdout, stderr }: Outcome): string {
  return `status ${status}\n${stdout}${stderr}`;
}
