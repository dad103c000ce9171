import { setTimeout as sleep } from 'node:timers/promises';
import { readLinks } from '../system/ip.js';
import type { NetworkChange, RouteMonitor } from '../system/route-monitor.js';
import type { UplinkStatus } from './attachments.js';
import type { Datapath } from './datapath.js';
import type { Tables } from './tables.js';

const ATTEMPTS = 5;
const PAUSE_MS = 200;

export interface UplinkEvents {
  /** @param was its index before, by which bindings knew it: they go by the new one now */
  returned(status: UplinkStatus, was: number): void;
  gone(name: string): void;
  failed(name: string, error: unknown): void;
}

/**
 * Attaches to uplinks again that are deleted and made anew under their name: a NIC that is plugged in, a bridge or a tunnel
 * that its service makes again. @returns a function that ends it
 */
export function followUplinks(datapath: Datapath, monitor: RouteMonitor, events: UplinkEvents): () => void {
  /** By name, the index that the programs are on, or are being brought onto. */
  const present = new Map(datapath.status().map((uplink) => [uplink.interface, uplink.ifindex]));
  const before = new Map(present);
  let ended = false;

  const attach = async (name: string, ifindex: number): Promise<void> => {
    for (let attempt = 1; present.get(name) === ifindex && !ended; attempt++) {
      try {
        const status = await datapath.returned(name, ifindex);
        const was = before.get(name) ?? 0;
        before.set(name, ifindex);
        moveBindings(datapath.tables, was, ifindex);
        events.returned(status, was);
        return;
      } catch (error) {
        if (present.get(name) !== ifindex) return; // gone again
        if (attempt === ATTEMPTS) return events.failed(name, error);
        await sleep(PAUSE_MS, undefined, { ref: false }); // a NIC may not be ready for XDP when it has just appeared
      }
    }
  };
  const appeared = (name: string, ifindex: number): void => {
    if (!present.has(name) || present.get(name) === ifindex) return;
    present.set(name, ifindex);
    void attach(name, ifindex);
  };
  const vanished = (ifindex: number): void => {
    for (const [name, known] of present) {
      if (known !== ifindex) continue;
      present.set(name, 0);
      datapath.gone(name);
      events.gone(name);
    }
  };
  const compare = async (): Promise<void> => {
    const links = await readLinks();
    for (const known of [...present.values()].filter((index) => index !== 0)) {
      if (!links.some(({ ifindex }) => ifindex === known)) vanished(known);
    }
    for (const { ifname, ifindex } of links) appeared(ifname, ifindex);
  };
  const hear = (changes: readonly NetworkChange[]): void => {
    for (const change of changes) {
      if (change.kind === 'lost') compare().catch((error: unknown) => events.failed('all uplinks', error));
      if (change.kind !== 'link') continue;
      const { name, ifindex } = change.link;
      if (change.gone) vanished(ifindex);
      else appeared(name, ifindex);
    }
  };
  const end = monitor.listen(hear);
  return () => {
    ended = true;
    end();
  };
}

function moveBindings(tables: Tables, was: number, ifindex: number): void {
  for (const [id, binding] of tables.bindings.entries()) {
    if (binding.uplink_ifindex === was) tables.putBinding(id, { ...binding, uplink_ifindex: ifindex });
  }
}
