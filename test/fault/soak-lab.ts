import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { LoadClient } from '../../cli/demo/load-client.js';
import { Lab } from '../../cli/lab/lab.js';
import { journalMethod, migrateMethod, psMethod, statusMethod } from '../../cli/node/control-methods.js';
import { callControl, streamControl } from '../../cli/node/control-transport.js';
import { readText } from '../../cli/system/procfs.js';
import { type Copy, copiesOf, processesOf } from '../lab/copies.js';
import { labName } from '../lab/lab-fixture.js';
import { killQuietly } from '../lab/node-command.js';

const SERVER = 'redis-server';
const FIRST_PORT = 6379;

export interface Subject {
  readonly pid: number;
  readonly load: LoadClient;
}

/** A lab with ordinary daemons and several servers at home, each with a verifying client of its own. */
export class SoakLab {
  private constructor(
    readonly lab: Lab,
    readonly nodes: readonly string[],
    readonly subjects: readonly Subject[],
  ) {}

  static async start(hosts: number, processes: number): Promise<SoakLab> {
    const lab = await Lab.up({ name: labName('soak'), hosts });
    const home = lab.node('home');
    await home.run(['mkdir', '-p', '/run/redis']);
    await home.run(['ln', '-sf', '/usr/bin/redis-check-rdb', `/run/redis/${SERVER}`]);
    const subjects: Subject[] = [];
    for (let index = 0; index < processes; index++) {
      const port = String(FIRST_PORT + index);
      const settings = ['--bind', '0.0.0.0', '--protected-mode', 'no', '--port', port, '--save', '', '--dir', '/'];
      const pid = await home.detach([`/run/redis/${SERVER}`, ...settings]);
      const args = ['--host', home.address, '--port', port, '--connections', '8', '--pace', '25', '--grace', '15000'];
      subjects.push({ pid, load: await LoadClient.start(lab.node('client'), 'verifying-client-main', args) });
    }
    const nodes = lab.nodes.filter(({ role }) => role !== 'client').map(({ name }) => name);
    return new SoakLab(lab, nodes, subjects);
  }

  socket(node: string): string {
    return this.lab.node(node).path(join('/run/homeproxy', 'control.sock'));
  }

  /** @returns whether it moved. */
  async migrate({ pid }: Subject, to: string): Promise<boolean> {
    try {
      await streamControl(this.socket('home'), migrateMethod, { pid, to }, () => undefined);
      return true;
    } catch {
      return false; // it stayed, or the daemon was killed: the check says
    }
  }

  async killDaemon(node: string): Promise<void> {
    await this.lab.stopDaemon(node, 'SIGKILL');
  }

  async startDaemon(node: string): Promise<void> {
    await this.lab.startDaemon(node);
  }

  /**
   * Kills the CRIUs of a node, but not one that is dumping: for about a millisecond it has code of its own in the process, whose end
   * its end would be. (The matrix kills it before and after.)
   */
  killCriu(node: string): number {
    const found = processesOf(this.lab).filter(
      (copy) =>
        copy.node === node &&
        readText(`/proc/${copy.machinePid}/comm`)?.trim() === 'criu' &&
        !(/ dump /.test(copy.commandLine) && this.lastHook(copy) === 'pre-dump'),
    );
    for (const { machinePid } of found) killQuietly(machinePid, 'SIGKILL');
    return found.length;
  }

  private lastHook({ machinePid, commandLine }: Copy): string {
    const images = / -D (\S+)/.exec(commandLine)?.[1] ?? '';
    return (readText(`/proc/${machinePid}/root${images}/hooks.log`) ?? '').trim().split('\n').at(-1) ?? '';
  }

  async link(node: string, state: 'up' | 'down'): Promise<void> {
    await this.lab.node(node).run(['ip', 'link', 'set', 'eth0', state]);
  }

  /** Everything that is wrong, once it does not get better any more; `limitMs` at most. */
  async faults(limitMs: number): Promise<string[]> {
    for (const deadline = Date.now() + limitMs; ; await sleep(100)) {
      const found = await this.look().catch((error: unknown) => [`cannot look: ${(error as Error).message}`]);
      if (found.length === 0 || Date.now() > deadline) return found;
    }
  }

  private async look(): Promise<string[]> {
    const faults: string[] = [];
    const { processes } = await callControl(this.socket('home'), psMethod, {});
    const copies = copiesOf(this.lab, SERVER);
    for (const { pid } of this.subjects) {
      const place = processes.find((row) => row.pid === pid)?.location ?? 'home';
      const found = copies
        .filter((copy) => copy.pid === pid)
        .map(({ node, live }) => `${node}${live ? '' : ' stopped'}`);
      if (found.join() !== place)
        faults.push(`process ${pid}: copies: ${found.join(', ') || 'none'}; the home says ${place}`);
    }
    for (const node of this.nodes) {
      const status = await callControl(this.socket(node), statusMethod, {});
      const journal = await callControl(this.socket(node), journalMethod, { last: 10 });
      const bindings = node === 'home' ? status.departed : status.residents;
      if (status.bindings !== bindings) faults.push(`${node}: ${status.bindings} bindings for ${bindings} processes`);
      if (status.moving.length > 0) faults.push(`${node}: moving ${status.moving.join()}`);
      const waiting = [...journal.departing, ...journal.arriving];
      if (waiting.length > 0) faults.push(`${node}: waits for ${waiting.join()}`);
      for (const { migration, state } of journal.migrations) {
        if (!['done', 'rolled-back', 'taken-part'].includes(state)) faults.push(`${node}: ${migration} is ${state}`);
      }
    }
    return faults;
  }
}
