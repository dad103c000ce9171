import { findCriu } from '../../../cli/checkpoint/criu.js';
import type { LabNode } from '../../../cli/lab/lab-node.js';
import type { Asking } from './asking.js';
import { type ByHand, IMAGES, LIMIT_MS } from './by-hand.js';
import type { Case } from './cases.js';
import type { Scene, Subject } from './scene.js';

/** Its pid must be free where it is restored. */
const FIRST_PID = 10_000;

/** `criu dump` and `criu restore`, with CRIU's own lock on the connections. */
export class PlainCriu implements ByHand {
  private readonly criu = findCriu('auto');
  private subject: Subject | undefined;

  /** @param run pids of a run are not those of another */
  constructor(private readonly run: number) {}

  async start(scene: Scene, what: Case, address: string): Promise<Asking> {
    await scene.home.run(['sh', '-c', `echo ${FIRST_PID + 100 * this.run} >/proc/sys/kernel/ns_last_pid`]);
    this.subject = await scene.start(what, address);
    return this.subject.asking;
  }

  async dump(home: LabNode): Promise<void> {
    await home.run([this.criu, 'dump', '-t', String(this.subject?.pid), ...options('dump')], { timeoutMs: LIMIT_MS });
  }

  async restore(host: LabNode): Promise<void> {
    await host.run([this.criu, 'restore', '-d', ...options('restore')], { timeoutMs: LIMIT_MS });
  }

  async end(scene: Scene, where: LabNode): Promise<void> {
    if (this.subject !== undefined) await scene.end(this.subject, where);
  }
}

function options(action: string): string[] {
  const locks = ['--tcp-established', '--network-lock', 'nftables', '--file-locks'];
  return ['-D', IMAGES, '-o', `${action}.log`, ...locks];
}
