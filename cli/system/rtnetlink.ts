import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import {
  decodeNetlink,
  encodeNetlink,
  netlinkAttributes,
  openNetlink,
  receiveNetlink,
  sendNetlink,
} from '../../addon/lib/index.js';
import type { NetlinkAttribute, NetlinkMessage } from '../../addon/lib/types.js';
import { BugError } from '../errors.js';

/** linux/rtnetlink.h and linux/netlink.h */
export const RTM = {
  newLink: 16,
  delLink: 17,
  getLink: 18,
  newAddress: 20,
  delAddress: 21,
  newRoute: 24,
  delRoute: 25,
  getRoute: 26,
  newNeighbour: 28,
  delNeighbour: 29,
  getNeighbour: 30,
  newRule: 32,
  delRule: 33,
  newNextHop: 104,
  delNextHop: 105,
} as const;
const NLMSG_ERROR = 2;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLM_F_REPLACE = 0x100;
const NLM_F_CREATE = 0x400;

const RTA = { dst: 1, src: 2, oif: 4, gateway: 5, metrics: 8, via: 18, encapType: 21 } as const;
const RTAX_MTU = 2;
const RTN_UNICAST = 1;
const NDA = { dst: 1, mac: 2 } as const;
const IFLA = { address: 1, name: 3, mtu: 4 } as const;
const IFF_UP = 1;
const IFF_RUNNING = 0x40; // the kernel's netif_oper_up: up, and its carrier is there
const IFF_NOARP = 0x80;
const NTF_USE = 1;
const NTF_EXT_LEARNED = 0x10;

/** States of a neighbour entry (linux/neighbour.h). */
export const NUD = {
  incomplete: 1,
  reachable: 2,
  stale: 4,
  delay: 8,
  probe: 16,
  failed: 32,
  noarp: 64,
  permanent: 128,
} as const;

/** An IPv4 (4) or IPv6 (16) address in bytes. */
export type AddressBytes = Buffer;

export interface KernelRoute {
  readonly ifindex: number;
  /** Of another family than the destination's in RFC 5549 networks; absent: the destination is on the link. */
  readonly gateway: AddressBytes | undefined;
  /** In bytes: of the route's own metric, or what the kernel has learnt of the path. */
  readonly mtu: number | undefined;
  /** The kernel would wrap the packet on its way out (MPLS, segment routing). */
  readonly wraps: boolean;
}

export interface KernelNeighbour {
  readonly ifindex: number;
  readonly address: AddressBytes;
  readonly mac: Buffer | undefined;
  /** Of {@link NUD}. */
  readonly state: number;
  /** A routing daemon keeps it, not the kernel. */
  readonly foreign: boolean;
}

export interface KernelLink {
  readonly ifindex: number;
  readonly name: string;
  readonly mtu: number;
  readonly mac: Buffer | undefined;
  /** Up, with a carrier. */
  readonly running: boolean;
  /** Its neighbours have addresses that are to be resolved. */
  readonly resolves: boolean;
}

/** What the kernel knows of routes, neighbours and links, asked and told over one socket; each call takes microseconds. */
export class Rtnetlink {
  private readonly fd = openNetlink();
  private readonly buffer = Buffer.allocUnsafe(1 << 16);
  private sequence = 0;

  /** How a packet to an address would go, from `source` if that is given. Undefined: there is no way. */
  route(destination: AddressBytes, source?: AddressBytes): KernelRoute | undefined {
    const body = Buffer.alloc(12); // struct rtmsg
    body[0] = familyOf(destination);
    body[1] = destination.length * 8;
    body[2] = (source?.length ?? 0) * 8;
    const from = source === undefined ? [] : [{ type: RTA.src, value: source }];
    const answer = this.ask(RTM.getRoute, 0, body, [{ type: RTA.dst, value: destination }, ...from]);
    return answer === undefined ? undefined : decodeRoute(answer.body);
  }

  /** The kernel's entry for a neighbour, if it has one. */
  neighbour(address: AddressBytes, ifindex: number): KernelNeighbour | undefined {
    const answer = this.ask(RTM.getNeighbour, 0, neighbourBody(address, ifindex, 0, 0), [
      { type: NDA.dst, value: address },
    ]);
    return answer === undefined ? undefined : decodeNeighbour(answer.body);
  }

  link(ifindex: number): KernelLink | undefined {
    const body = Buffer.alloc(16); // struct ifinfomsg
    body.writeInt32LE(ifindex, 4);
    const answer = this.ask(RTM.getLink, 0, body, []);
    return answer === undefined ? undefined : decodeLink(answer.body);
  }

  /** As if a packet went there: a missing or failed entry is resolved (broadcast), a stale one is looked after. */
  useNeighbour(address: AddressBytes, ifindex: number): void {
    this.changeNeighbour(address, neighbourBody(address, ifindex, 0, NTF_USE), NLM_F_CREATE | NLM_F_REPLACE);
  }

  /** The kernel asks the neighbour itself, now, whether it is still there; what is sent meanwhile goes to the known MAC. */
  probeNeighbour(address: AddressBytes, ifindex: number): void {
    this.changeNeighbour(address, neighbourBody(address, ifindex, NUD.probe, 0), NLM_F_REPLACE);
  }

  /** The known MAC answers no more: it is forgotten, and everybody on the link is asked who has the address. */
  resolveAgain(address: AddressBytes, ifindex: number): void {
    this.changeNeighbour(address, neighbourBody(address, ifindex, NUD.failed, 0), NLM_F_REPLACE);
    this.useNeighbour(address, ifindex);
  }

  close(): void {
    closeSync(this.fd);
  }

  private changeNeighbour(address: AddressBytes, body: Buffer, flags: number): void {
    this.ask(RTM.newNeighbour, flags | NLM_F_ACK, body, [{ type: NDA.dst, value: address }]);
  }

  /** @returns the answer; undefined when the kernel refuses, or has acknowledged and has nothing more to say. */
  private ask(
    type: number,
    flags: number,
    body: Buffer,
    attributes: readonly NetlinkAttribute[],
  ): NetlinkMessage | undefined {
    this.sequence = (this.sequence + 1) >>> 0;
    const { sequence } = this;
    sendNetlink(this.fd, encodeNetlink({ type, flags: NLM_F_REQUEST | flags, sequence, body }, attributes));
    for (;;) {
      const length = receiveNetlink(this.fd, this.buffer);
      if (length < 0) throw new BugError(`the kernel did not answer rtnetlink message ${type}`);
      const answer = decodeNetlink(this.buffer.subarray(0, length)).find((message) => message.sequence === sequence);
      if (answer === undefined) continue;
      if (answer.type !== NLMSG_ERROR) return answer;
      const error = -answer.body.readInt32LE(0);
      if (error === constants.errno.EPERM) throw new BugError('not permitted to change neighbour entries');
      return undefined;
    }
  }
}

export function decodeRoute(body: Buffer): KernelRoute | undefined {
  if (body[7] !== RTN_UNICAST) return undefined; // local, blackhole, prohibit
  const attributes = netlinkAttributes(body, 12);
  const ifindex = attributes.get(RTA.oif)?.readUInt32LE() ?? 0;
  if (ifindex === 0) return undefined;
  const metrics = attributes.get(RTA.metrics);
  const via = attributes.get(RTA.via);
  return {
    ifindex,
    gateway: attributes.get(RTA.gateway) ?? via?.subarray(2),
    mtu: metrics === undefined ? undefined : netlinkAttributes(metrics, 0).get(RTAX_MTU)?.readUInt32LE(),
    wraps: attributes.has(RTA.encapType),
  };
}

export function decodeNeighbour(body: Buffer): KernelNeighbour | undefined {
  const attributes = netlinkAttributes(body, 12); // struct ndmsg
  const address = attributes.get(NDA.dst);
  if (address === undefined) return undefined; // of a bridge's forwarding table
  return {
    ifindex: body.readInt32LE(4),
    address,
    mac: attributes.get(NDA.mac),
    state: body.readUInt16LE(8),
    foreign: ((body[10] ?? 0) & NTF_EXT_LEARNED) !== 0,
  };
}

export function decodeLink(body: Buffer): KernelLink {
  const attributes = netlinkAttributes(body, 16);
  const flags = body.readUInt32LE(8);
  return {
    ifindex: body.readInt32LE(4),
    name: (attributes.get(IFLA.name) ?? Buffer.alloc(1)).toString('latin1').split('\0', 1)[0] ?? '',
    mtu: attributes.get(IFLA.mtu)?.readUInt32LE() ?? 0,
    mac: attributes.get(IFLA.address),
    running: (flags & (IFF_UP | IFF_RUNNING)) === (IFF_UP | IFF_RUNNING),
    resolves: (flags & IFF_NOARP) === 0,
  };
}

/** struct ndmsg */
function neighbourBody(address: AddressBytes, ifindex: number, state: number, flags: number): Buffer {
  const body = Buffer.alloc(12);
  body[0] = familyOf(address);
  body.writeInt32LE(ifindex, 4);
  body.writeUInt16LE(state, 8);
  body[10] = flags;
  return body;
}

function familyOf(address: AddressBytes): number {
  return address.length === 4 ? 2 : 10; // AF_INET, AF_INET6
}
