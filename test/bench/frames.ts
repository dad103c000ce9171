import { ethernet, ipip, ipv4, type Segment, tcp } from '../packet/packets.js';

/** The cast: this node, another node of ours, and the home address of a process that came to us from there. */
export const HOME = '10.0.0.2';
export const OTHER_NODE = '10.0.0.3';
export const GUEST = '10.9.0.2';

/** Ports of one process that departed, all its own: a server on several ports, or outgoing connections. */
export const OWN_PORTS = 16;
export const OWN_PORT = 7000;
/** A port that a departed process shares with processes that stayed. */
export const SHARED_PORT = 6379;
export const PARKED_PORT = 7200;
export const GUEST_PORT = 7300;
/** Ports of nobody who departed: other traffic of the node. */
const FOREIGN_PORT = 30_000;
const FOREIGN_PORTS = 30_000;

const ETHERNET = 14;
const IP = 20;
const PORTS_PER_REMOTE = 16;
const REMOTE_PORT = 20_000;
/** 10.64.0.0: room for 4 M correspondents. */
const FIRST_REMOTE = 0x0a400000;

export type Random = () => number;

/** Writes one packet of a flow into a frame of its kind that lies at `offset`. */
type Write = (frames: Buffer, offset: number, flow: number) => void;

export interface FrameKind {
  /** What every frame of the kind has in common. */
  readonly template: Buffer;
  readonly write: Write;
}

/** The remote end of flow number `flow`: its correspondents have 16 connections each. */
export function remoteOf(flow: number): { readonly address: number; readonly port: number } {
  return {
    address: FIRST_REMOTE + Math.floor(flow / PORTS_PER_REMOTE),
    port: REMOTE_PORT + (flow % PORTS_PER_REMOTE),
  };
}

export function dotted(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.');
}

/** Packets of 64 bytes to `local`, as flow number i has them; `portOf` says to which of its ports. */
export function incoming(local: string, portOf: (flow: number) => number): FrameKind {
  const template = ethernet({}, packetTo(local));
  return { template, write: writer(ETHERNET, portOf) };
}

/** Packets of 64 bytes that `local` sends, on ports as `portOf` says. */
export function outgoing(local: string, portOf: (flow: number) => number): FrameKind {
  const packet = ipv4({ source: local, destination: '0.0.0.0' }, acknowledgement());
  const template = ethernet({}, packet);
  return { template, write: writer(ETHERNET, portOf, LEAVING) };
}

/** The same packets as another node tunnels them to this one. */
export function tunnelled(local: string, portOf: (flow: number) => number): FrameKind {
  const template = ethernet({}, ipv4({ source: OTHER_NODE, destination: HOME, ttl: 64, id: 0 }, ipip(packetTo(local))));
  return { template, write: writer(ETHERNET + IP, portOf) };
}

/** Ports that no binding has, another one for each packet. */
export function foreignPort(random: Random): () => number {
  return () => FOREIGN_PORT + Math.floor(random() * FOREIGN_PORTS);
}

/** `count` frames behind one another, each of a flow at random among the first `flows`. */
export function randomFrames(kind: FrameKind, flows: number, count: number, random: Random): Buffer {
  const size = kind.template.length;
  const frames = Buffer.alloc(size * count, kind.template);
  for (let i = 0; i < count; i++) kind.write(frames, i * size, Math.floor(random() * flows));
  return frames;
}

function packetTo(local: string): Buffer {
  return ipv4({ source: '0.0.0.0', destination: local }, acknowledgement());
}

function acknowledgement(): Segment {
  return tcp({ sourcePort: 1, destinationPort: 1, flags: 'A', payload: Buffer.alloc(10) });
}

/** Where a packet has its remote end and its local port, from the start of its IP header. */
const ARRIVING = { remote: 12, remotePort: IP, localPort: IP + 2 };
const LEAVING = { remote: 16, remotePort: IP + 2, localPort: IP };

/** Fills in the remote address and both ports, and mends the IP header's checksum (the template's remote end is 0.0.0.0). */
function writer(ip: number, portOf: (flow: number) => number, place = ARRIVING): Write {
  return (frames, offset, flow) => {
    const { address, port } = remoteOf(flow);
    const at = offset + ip;
    const sum = (~frames.readUInt16BE(at + 10) & 0xffff) + (address >>> 16) + (address & 0xffff);
    const folded = (sum & 0xffff) + (sum >>> 16);
    frames.writeUInt16BE(~((folded & 0xffff) + (folded >>> 16)) & 0xffff, at + 10);
    frames.writeUInt32BE(address, at + place.remote);
    frames.writeUInt16BE(port, at + place.remotePort);
    frames.writeUInt16BE(portOf(flow), at + place.localPort);
  };
}
