import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { startServer } from './c-program.js';
import { LineClient } from './line-client.js';

const PROGRESS_LIMIT_MS = 20_000;

/** A `dialer` in a node, told what to do by the lab's client: it opens connections and keeps numbered requests going on them. */
export class Dialer {
  private constructor(
    readonly pid: number,
    private readonly orders: LineClient,
  ) {}

  /** @param command that starts it, with its address and port, or a shell that becomes it */
  static async start(command: readonly string[], node: LabNode, port: number, from: LabNode): Promise<Dialer> {
    const pid = await startServer(node, command, port);
    return new Dialer(pid, await LineClient.connect(from, node.address, port));
  }

  /** @returns its own port of the new connection. @throws {Error} what connect(2) said */
  async dial(protocol: 'tcp' | 'udp', address: string, port: number): Promise<number> {
    const [word, number] = (await this.orders.ask(`${protocol} ${address} ${port}`)).split(' ');
    if (word !== 'open') throw new Error(`${protocol} ${address} ${port}: ${word} ${number}`);
    return Number(number);
  }

  /** Waits until so many more requests were answered on each connection. @throws {Error} after 20 s, or when there is a fault */
  async goesOn(answers = 20): Promise<void> {
    const first = await this.report();
    for (const deadline = Date.now() + PROGRESS_LIMIT_MS; ; await sleep(20)) {
      const { fewest, faults, streams, slowest } = await this.report();
      assert.is(faults, 0, 'every answer was the next number');
      if (fewest >= first.fewest + answers) return;
      if (Date.now() > deadline) throw new Error(`one of ${streams} connections stands still: ${slowest}`);
    }
  }

  async report(): Promise<{ streams: number; fewest: number; faults: number; slowest: string }> {
    const [streams, fewest, faults, ...slowest] = (await this.orders.ask('report')).split(' ');
    return { streams: Number(streams), fewest: Number(fewest), faults: Number(faults), slowest: slowest.join(' ') };
  }
}
