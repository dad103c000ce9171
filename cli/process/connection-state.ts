import ipaddr from 'ipaddr.js';
import { z } from 'zod';
import type { SurveyedStream } from '../../addon/lib/index.js';
import { type Endpoint, TCP_STATES } from './sockets.js';

const sequence = z.number().int().min(0).max(0xffff_ffff);
const bytes = z.number().int().min(0).max(0xffff_ffff);

/** Where a TCP connection stands, which must be the same before and after a move. */
export const connectionStateSchema = z.object({
  /** "10.77.0.2:6379", "[fd77::2]:6379". */
  local: z.string().max(64),
  remote: z.string().max(64),
  state: z.enum(TCP_STATES),
  /** The sequence number after the last byte (or FIN) that the process has sent, acknowledged or not. */
  sent: sequence,
  /** The sequence number after the last byte (or FIN) that has come to it, read or not. */
  received: sequence,
  /** Bytes that have come and were not read. */
  unread: bytes,
  /** Bytes of the process that its correspondent has not acknowledged, or was not even sent. */
  unacknowledged: bytes,
  /** Those of them that were not sent; absent where nobody looks. */
  unsent: bytes.optional(),
});
export type ConnectionState = z.infer<typeof connectionStateSchema>;

/** Their FIN is sent, and has a sequence number that is not a byte's. */
const FIN_WAITS = new Set(['FIN_WAIT1', 'LAST_ACK', 'CLOSING']);

/** What connections in repair mode have answered. */
export function connectionsIn(streams: readonly SurveyedStream[]): ConnectionState[] {
  return streams.map(({ localAddress, localPort, remoteAddress, remotePort, unacknowledged, ...stream }) => {
    const state = TCP_STATES[stream.state] ?? 'NONE';
    return {
      local: endpointText(localAddress, localPort),
      remote: endpointText(remoteAddress, remotePort),
      state,
      sent: stream.sent,
      received: stream.received,
      unread: stream.unread,
      unacknowledged: FIN_WAITS.has(state) ? Math.max(0, unacknowledged - 1) : unacknowledged,
    };
  });
}

/** @param address 4 or 16 bytes in network order; a mapped one is written as IPv4 */
export function endpointText(address: Buffer, port: number): string {
  return textOfEndpoint({ address: ipaddr.fromByteArray([...address]).toString(), port });
}

/** The same of an address in any notation. */
export function textOfEndpoint({ address, port }: Endpoint): string {
  const parsed = ipaddr.process(address);
  return parsed.kind() === 'ipv6' ? `[${parsed.toString()}]:${port}` : `${parsed.toString()}:${port}`;
}
