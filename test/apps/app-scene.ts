import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import * as assert from 'uvu/assert';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { startServer } from '../lab/c-program.js';
import { placesOf } from '../lab/copies.js';
import { Scenario, type Summary } from '../lab/scenario.js';
import { AppPrograms } from './app-programs.js';

/** What shows that an application serves: it must go on by so many replies. */
export interface Traffic {
  goesOn(replies: number): Promise<void>;
}

/** A lab in which real servers run. */
export class AppScene {
  private constructor(
    readonly scenario: Scenario,
    readonly programs: AppPrograms,
  ) {}

  static async start(purpose: string): Promise<AppScene> {
    const programs = await AppPrograms.get();
    return new AppScene(await Scenario.start(purpose), programs);
  }

  /** The nodes on which a server may run. */
  get servers(): LabNode[] {
    return ['home', 'host1', 'host2'].map((name) => this.scenario.lab.node(name));
  }

  /** Puts the same file on every node that may run a server, as packages and an administrator would. */
  install(path: string, content: string | Buffer): void {
    for (const node of this.servers) {
      mkdirSync(node.path(dirname(path)), { recursive: true });
      writeFileSync(node.path(path), content, { mode: 0o644 });
    }
  }

  /** Makes the same empty folder everywhere. */
  installFolder(path: string): void {
    for (const node of this.servers) mkdirSync(node.path(path), { recursive: true, mode: 0o755 });
  }

  /** Starts a server at home and waits until it listens. @returns its pid there */
  async serve(port: number, command: readonly string[], env = this.programs.env): Promise<number> {
    const [program = '', ...args] = command;
    const settings = Object.entries(env).map(([name, value]) => `${name}=${value}`);
    return startServer(this.scenario.home, ['env', ...settings, this.programs.program(program), ...args], port);
  }

  /** home -> host1 -> host2 -> home, while the traffic goes on at every stop. */
  async tour(pid: number, program: string, traffic: Traffic): Promise<Summary[]> {
    const moves: Summary[] = [];
    await traffic.goesOn(20);
    for (const to of ['host1', 'host2', 'home']) {
      const move = to === 'home' ? await this.scenario.recall(pid) : await this.scenario.migrate(pid, to);
      moves.push(move);
      const place = to === 'home' ? 'home' : `${to} (in a pod)`;
      assert.equal([...new Set(placesOf(this.scenario.lab, program))], [place]);
      assert.is(move.droppedPackets, 0, `packets lost on the way to ${to}`);
      await traffic.goesOn(20);
    }
    return moves;
  }
}

/** For the reader of a test's output: how often it moved, with how much. */
export function tell(name: string, moves: readonly Summary[], more: string): void {
  const freezes = moves.map(({ freezeMs }) => `${freezeMs.toFixed(0)} ms`).join(', ');
  const connections = moves[0]?.connections ?? 0;
  console.log(`  ${name}: ${moves.length} moves with ${connections} connections, frozen ${freezes}; ${more}`);
}
