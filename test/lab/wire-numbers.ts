/* What a capture at the client tells of the sequence numbers of a server's connection (RFC 9293). */
import ipaddr from 'ipaddr.js';
import { type Frame, readIpv4, readIpv6, readTcp, type TcpSegment } from './pcap.js';

/** How a connection stood at some moment, as its client saw it. */
export interface WireNumbers {
  /** After the last byte or FIN that the server had sent. */
  readonly sent: number;
  /** What the client had acknowledged of it. */
  readonly acknowledged: number;
  /** What the server had acknowledged. */
  readonly received: number;
  /** When anything that has a sequence number last passed. Epoch milliseconds. */
  readonly lastAt: number;
}

/**
 * The segments of each connection in a capture, by "server endpoint client endpoint", in their order.
 * @param server its addresses, in their shortest form
 */
export function segmentsByConnection(frames: readonly Frame[], server: readonly string[]): Map<string, TcpSegment[]> {
  const connections = new Map<string, TcpSegment[]>();
  for (const frame of frames) {
    const packet = readIpv4(frame) ?? readIpv6(frame);
    const segment = packet === undefined ? undefined : readTcp(packet);
    if (segment === undefined) continue;
    const near = endpoint(segment.source, segment.sourcePort);
    const far = endpoint(segment.destination, segment.destinationPort);
    const key = server.includes(segment.source) ? `${near} ${far}` : `${far} ${near}`;
    connections.set(key, [...(connections.get(key) ?? []), segment]);
  }
  return connections;
}

/** Undefined when one end has said nothing until then. @param at epoch milliseconds */
export function wireNumbersAt(
  segments: readonly TcpSegment[],
  server: readonly string[],
  at: number,
): WireNumbers | undefined {
  const before = segments.filter((segment) => segment.at < at);
  const ours = before.filter(({ source }) => server.includes(source));
  const theirs = before.filter(({ source }) => !server.includes(source));
  const sent = latest(ours.map(endOf));
  const received = latest(acknowledgementsOf(ours));
  const acknowledged = latest(acknowledgementsOf(theirs));
  if (sent === undefined || received === undefined || acknowledged === undefined) return undefined;
  const lastAt = Math.max(...before.filter((segment) => lengthOf(segment) > 0).map((segment) => segment.at));
  return { sent, received, acknowledged, lastAt };
}

/** How far one sequence number is ahead of another; negative when it is behind. */
export function ahead(number: number, other: number): number {
  return (number - other) | 0;
}

function acknowledgementsOf(segments: readonly TcpSegment[]): number[] {
  return segments.filter(({ flags }) => flags.has('ACK')).map(({ acknowledgement }) => acknowledgement);
}

function latest(numbers: readonly number[]): number | undefined {
  return numbers.reduce<number | undefined>(
    (last, number) => (last === undefined || ahead(number, last) > 0 ? number : last),
    undefined,
  );
}

function endOf(segment: TcpSegment): number {
  return (segment.sequence + lengthOf(segment)) >>> 0;
}

function lengthOf({ payload, flags }: TcpSegment): number {
  return payload.length + (flags.has('SYN') ? 1 : 0) + (flags.has('FIN') ? 1 : 0);
}

function endpoint(address: string, port: number): string {
  return address.includes(':') ? `[${ipaddr.parse(address).toString()}]:${port}` : `${address}:${port}`;
}
