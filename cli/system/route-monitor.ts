import { closeSync } from 'node:fs';
import { decodeNetlink, openNetlink, pollReadable, receiveNetlink } from '../../addon/lib/index.js';
import type { Watch } from '../../addon/lib/types.js';
import { decodeLink, decodeNeighbour, type KernelLink, type KernelNeighbour, RTM } from './rtnetlink.js';

/** RTNLGRP_*: links, neighbours, IPv4 addresses, routes and rules, the same of IPv6, next-hop objects. */
const GROUPS = [1, 3, 5, 7, 8, 9, 11, 19, 32];
/** A burst of a few thousand notifications; what does not fit is told as `lost`. */
const RECEIVE_BYTES = 4 << 20;

/** What has changed in the kernel's idea of the network. `routes`: routes, rules, addresses or next-hop objects. */
export type NetworkChange =
  | { readonly kind: 'link'; readonly link: KernelLink; readonly gone: boolean }
  | { readonly kind: 'neighbour'; readonly neighbour: KernelNeighbour; readonly gone: boolean }
  | { readonly kind: 'routes' }
  /** Notifications were lost: anything may have changed. */
  | { readonly kind: 'lost' };

/** Tells of every change of links, neighbours and routes in this network namespace, as the kernel does (rtnetlink(7)). */
export class RouteMonitor {
  private readonly listeners = new Set<(changes: readonly NetworkChange[]) => void>();
  private readonly fd: number;
  private readonly watch: Watch;
  private readonly buffer = Buffer.allocUnsafe(1 << 16);

  /** @param receiveBytes room for notifications that have not been read yet */
  constructor(receiveBytes = RECEIVE_BYTES) {
    this.fd = openNetlink(GROUPS, receiveBytes);
    this.watch = pollReadable(this.fd, () => this.tell());
    this.watch.unref();
  }

  /** @returns a function that ends it */
  listen(listener: (changes: readonly NetworkChange[]) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  close(): void {
    this.watch.close();
    closeSync(this.fd);
    this.listeners.clear();
  }

  private tell(): void {
    const changes: NetworkChange[] = [];
    for (let more = true; more; ) more = this.read(changes);
    if (changes.length === 0) return;
    for (const listener of [...this.listeners]) listener(changes);
  }

  /** @returns whether there may be more */
  private read(changes: NetworkChange[]): boolean {
    let length: number;
    try {
      length = receiveNetlink(this.fd, this.buffer);
    } catch (error) {
      const { code } = error as { code?: string };
      if (code !== 'ENOBUFS' && code !== 'EMSGSIZE') throw error;
      changes.push({ kind: 'lost' });
      return true;
    }
    if (length < 0) return false;
    for (const { type, body } of decodeNetlink(this.buffer.subarray(0, length))) {
      const change = decode(type, body);
      if (change !== undefined) changes.push(change);
    }
    return true;
  }
}

function decode(type: number, body: Buffer): NetworkChange | undefined {
  switch (type) {
    case RTM.newLink:
    case RTM.delLink:
      // a bridge tells of its ports' own states under the same type (PF_BRIDGE)
      return body[0] === 0 ? { kind: 'link', link: decodeLink(body), gone: type === RTM.delLink } : undefined;
    case RTM.newNeighbour:
    case RTM.delNeighbour: {
      const neighbour = decodeNeighbour(body);
      return neighbour === undefined ? undefined : { kind: 'neighbour', neighbour, gone: type === RTM.delNeighbour };
    }
    case RTM.newAddress:
    case RTM.delAddress:
    case RTM.newRoute:
    case RTM.delRoute:
    case RTM.newRule:
    case RTM.delRule:
    case RTM.newNextHop:
    case RTM.delNextHop:
      return { kind: 'routes' };
    default:
      return undefined;
  }
}
