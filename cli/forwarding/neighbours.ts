import { createSocket } from 'node:dgram';
import { setTimeout as pause } from 'node:timers/promises';
import { readLink, readNeighbour, routeTo } from '../system/ip.js';
import type { NextHopStruct } from './abi.gen.js';
import { encodeMac } from './address.js';

/** States in which an entry's MAC may be used (include/net/neighbour.h, NUD_VALID). */
const VALID = new Set(['REACHABLE', 'STALE', 'DELAY', 'PROBE', 'PERMANENT', 'NOARP']);
const DISCARD_PORT = 9; // RFC 863
const REFRESH_MS = 1000;
const RESOLVE_MS = 1000;

const UNRESOLVED = { resolved: 0, source: Buffer.alloc(6), destination: Buffer.alloc(6) };

/** Next hops of care-of addresses, resolved ahead of the packets and looked at again every second. */
export class Neighbours {
  private readonly watched = new Map<
    string,
    { hop: NextHopStruct; readonly changed: Set<(hop: NextHopStruct) => void> }
  >();
  private timer: NodeJS.Timeout | undefined;

  /**
   * Where packets to an address go now. Provokes the resolution when the kernel has no entry.
   * An address that does not resolve within a second is `resolved: 0`: then tc asks the kernel packet by packet.
   */
  async resolve(address: string): Promise<NextHopStruct> {
    const hop = await lookUp(address);
    if (hop.resolved === 1) return hop;
    await provoke(address);
    const deadline = performance.now() + RESOLVE_MS;
    for (;;) {
      const later = await lookUp(address);
      if (later.resolved === 1 || performance.now() > deadline) return later;
      await pause(10); // an ARP exchange; the kernel tells of its end only over netlink
    }
  }

  /** Calls back whenever the next hop of an address is another. @returns a function that ends it. */
  watch(address: string, hop: NextHopStruct, onChange: (hop: NextHopStruct) => void): () => void {
    const entry = this.watched.get(address) ?? { hop, changed: new Set() };
    entry.changed.add(onChange);
    this.watched.set(address, entry);
    if (!same(hop, entry.hop)) onChange(entry.hop); // what another binding has learnt since the caller looked
    this.timer ??= setInterval(() => void this.refresh(), REFRESH_MS).unref();
    return () => {
      entry.changed.delete(onChange);
      if (entry.changed.size === 0) this.watched.delete(address);
    };
  }

  close(): void {
    clearInterval(this.timer);
    this.watched.clear();
  }

  private async refresh(): Promise<void> {
    for (const [address, entry] of this.watched) {
      const hop = await lookUp(address).catch(() => undefined);
      if (hop === undefined) continue; // no route for the moment: what is known is better than nothing
      if (hop.resolved === 0) await provoke(address);
      if (same(hop, entry.hop)) continue;
      entry.hop = hop;
      for (const changed of entry.changed) changed(hop);
    }
  }
}

async function lookUp(address: string): Promise<NextHopStruct> {
  const route = await routeTo(address);
  const [link, neighbour] = await Promise.all([
    readLink(route.dev),
    readNeighbour(route.gateway ?? address, route.dev),
  ]);
  const mtu = route.metrics?.[0]?.mtu ?? link.mtu;
  const usable = neighbour?.lladdr !== undefined && neighbour.state.some((state) => VALID.has(state));
  if (!usable || link.address === undefined) return { ...UNRESOLVED, ifindex: link.ifindex, mtu };
  return {
    ifindex: link.ifindex,
    mtu,
    resolved: 1,
    source: encodeMac(link.address),
    destination: encodeMac(neighbour.lladdr ?? ''),
  };
}

/** An empty datagram to the discard port makes the kernel ask for the neighbour. */
async function provoke(address: string): Promise<void> {
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
  await new Promise<void>((resolve) => {
    socket.on('error', () => resolve()); // unreachable: the look-up will say so
    socket.send(Buffer.alloc(0), DISCARD_PORT, address, () => resolve());
  });
  socket.close();
}

function same(left: NextHopStruct, right: NextHopStruct): boolean {
  return (
    left.ifindex === right.ifindex &&
    left.mtu === right.mtu &&
    left.resolved === right.resolved &&
    Buffer.compare(left.destination, right.destination) === 0 &&
    Buffer.compare(left.source, right.source) === 0
  );
}
