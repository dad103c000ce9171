import { spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { openTap, pidfdGetfd, pidfdOpen, readFrame, writeFrame } from '../../addon/lib/index.js';
import { run } from '../system/command.js';
import { type ProcessStamp, readText, stampAlive, stampProcess } from '../system/procfs.js';
import { Hook, Reason } from './abi.gen.js';
import { countForPrograms } from './counters.js';
import type { Datapath } from './datapath.js';

/** What a queue is made of; enough to take it up after a crash of the daemon. */
export interface ParkQueueRecord {
  readonly name: string;
  readonly ifindex: number;
  /** A process that does nothing but keep the TAP open: without a reader's descriptor the kernel drops what it holds. */
  readonly holder: ProcessStamp;
}

export interface ReplayCounts {
  readonly replayed: number;
  /** Frames that were counted into the queue but are not in it: it was full, or its holder was killed. */
  readonly lost: number;
}

/** Largest frame that a TAP hands out: an Ethernet header and 64 KiB. */
const FRAME_BYTES = 65_536 + 18;
/** Frames between two turns of the event loop. */
const BURST = 256;
/** A batch of XDP redirects is flushed at the end of its NAPI poll, microseconds later; a busy machine may preempt it. */
const HANDOVER_MS = 20;
/** In a flood the queue is seldom empty: so often it must have been before what was missing each time is lost. */
const MOMENT_LOOKS = 16;
const HOLDER_FD = 3;
/** All our TAPs are named so, with a number that the kernel gives. */
export const PARK_PREFIX = 'hpt';

/**
 * The packets of one frozen process, in order, in the kernel: a TAP whose transmit queue is the park. What is written back
 * into it is forwarded by `hp_replay`, as the binding says by then.
 */
export class ParkQueue {
  private closed = false;

  private constructor(
    private readonly datapath: Datapath,
    private readonly binding: number,
    readonly record: ParkQueueRecord,
    private readonly fd: number,
  ) {}

  /**
   * Makes the TAP and gives it to the binding. Its name is its own: the last one of the same binding goes some time after its
   * `close()`, when its holder has ended.
   * @param packets how many it holds; more are dropped, and counted when it is closed.
   */
  static async create(datapath: Datapath, binding: number, packets: number): Promise<ParkQueue> {
    const { fd, ifindex, name } = openTap(`${PARK_PREFIX}%d`);
    try {
      // Nothing of the kernel's own (ARP, IPv6 router solicitations) may enter the queue.
      await run('ip', ['-batch', '-'], {
        input: [`link set dev ${name} txqueuelen ${packets} arp off addrgenmode none`, `link set dev ${name} up`].join(
          '\n',
        ),
      });
      datapath.addDevice(ifindex, binding, 'park');
      datapath.tables.parkStates.put(binding, { parked: 0n, replayed: 0n });
      datapath.tables.parkReleases.put(binding, { replayed: 0n });
      const record = { name, ifindex, holder: startHolder(fd) };
      return new ParkQueue(datapath, binding, record, fd);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** Takes up a queue whose daemon died: the holder has its descriptor. Undefined when the holder is gone too. */
  static adopt(datapath: Datapath, binding: number, record: ParkQueueRecord): ParkQueue | undefined {
    if (!stampAlive(record.holder)) {
      countLost(datapath, binding);
      return undefined;
    }
    const pidfd = pidfdOpen(record.holder.pid);
    try {
      return new ParkQueue(datapath, binding, record, pidfdGetfd(pidfd, HOLDER_FD));
    } finally {
      closeSync(pidfd);
    }
  }

  get ifindex(): number {
    return this.record.ifindex;
  }

  /** Packets that wait now, by the datapath's count. */
  get pending(): number {
    const { parked, replayed } = this.counts();
    return Number(parked - replayed);
  }

  /**
   * Writes every parked frame back, in order, until the queue is empty. The binding must be draining: packets that arrive
   * meanwhile still go to the end of the queue, so that none overtakes.
   */
  async replay(): Promise<ReplayCounts> {
    const frame = Buffer.allocUnsafe(FRAME_BYTES);
    const missing = new Missing();
    let replayed = 0;
    for (;;) {
      for (let burst = 0; burst < BURST; burst++) {
        const length = readFrame(this.fd, frame);
        if (length < 0) {
          this.release();
          const { pending } = this;
          if (pending <= 0) return { replayed, lost: 0 };
          if (missing.areLost(pending)) return { replayed, lost: pending };
          break;
        }
        while (writeFrame(this.fd, frame.subarray(0, length)) < 0) await turn(); // the kernel has no room now
        replayed++;
      }
      await turn();
    }
  }

  /**
   * Removes the TAP. What is still in it is lost, and counted with what never found room in it.
   * @param unsaid it was held, and counted as that, for a copy that is given up: nobody misses it
   */
  close(unsaid = false): void {
    if (this.closed) return;
    this.closed = true;
    if (!unsaid) countLost(this.datapath, this.binding);
    this.datapath.removeDevice(this.ifindex);
    closeSync(this.fd);
    if (stampAlive(this.record.holder)) process.kill(this.record.holder.pid, 'SIGKILL');
  }

  /** Every write has returned, so every replayed frame is on its way: what is not parked behind one may go directly. */
  private release(): void {
    this.datapath.tables.parkReleases.put(this.binding, { replayed: this.counts().replayed });
  }

  private counts(): { parked: bigint; replayed: bigint } {
    return this.datapath.tables.parkStates.get(this.binding) ?? { parked: 0n, replayed: 0n };
  }
}

/**
 * Frames that are counted and not there when the queue is empty. XDP counts a frame before the driver hands the batch to the TAP, so
 * they have a moment before they are lost; others may come all that time, since as long as any are missing the programs park on.
 */
class Missing {
  private since = 0;
  private looks = 0;
  private least = 0;
  private lost = 0;

  /** @param now how many are missing now. @returns whether so many were missing at every look of the last moment: they do not come */
  areLost(now: number): boolean {
    const at = performance.now();
    const over = this.looks >= MOMENT_LOOKS && at - this.since > HANDOVER_MS;
    if (over) this.lost = this.least;
    if (over || this.looks === 0) [this.since, this.looks, this.least] = [at, 0, now];
    this.looks++;
    this.least = Math.min(this.least, now);
    return now <= this.lost;
  }
}

/** Everything that the programs parked and nobody replayed was lost; from here on it waits no more. */
function countLost(datapath: Datapath, binding: number): void {
  const { parkStates } = datapath.tables;
  const state = parkStates.get(binding);
  if (state === undefined || state.parked <= state.replayed) return;
  parkStates.put(binding, { parked: state.parked, replayed: state.parked });
  countForPrograms(datapath.tables, Hook.replay, Reason.park_lost, binding, state.parked - state.replayed);
}

function startHolder(fd: number): ProcessStamp {
  const child = spawn('sleep', ['infinity'], { stdio: ['ignore', 'ignore', 'ignore', fd], detached: true, cwd: '/' });
  child.unref();
  return stampProcess(child.pid ?? 0);
}

/** The TAP that a process holds as its only further descriptor, as a holder of ours does; undefined when it holds none. */
export function heldTap(pid: number): string | undefined {
  return /^iff:\s+(\S+)$/m.exec(readText(`/proc/${pid}/fdinfo/${HOLDER_FD}`) ?? '')?.[1];
}
