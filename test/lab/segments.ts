import type { TcpSegment } from './pcap.js';

/** Bytes of a flow's stream that have been sent, by their distance from the first sequence number seen. */
class Stream {
  private readonly bytes = new Map<number, number>();

  constructor(private readonly first: number) {}

  /**
   * Takes a segment in. Returns the distance of the first byte that differs from one sent before under the same sequence
   * number; undefined when none does.
   */
  add(sequence: number, payload: Buffer): number | undefined {
    const start = (sequence - this.first) | 0; // sequence numbers wrap
    for (let index = 0; index < payload.length; index++) {
      const byte = payload[index] ?? 0;
      const sent = this.bytes.get(start + index);
      if (sent !== undefined && sent !== byte) return start + index;
      this.bytes.set(start + index, byte);
    }
    return undefined;
  }
}

/**
 * What a second copy of a process would show on the wire, in words; empty when there is none. In all segments of one
 * sender, in the order of capture:
 * - no sequence number of a flow ever has two different bytes;
 * - a flow's segments come from one MAC after the other, as the process moves, and never again from one that it has left;
 * - none comes from a MAC that is not on the way, in the order of the way (`stations`: the MACs of where it was, in turn).
 */
export function contradictions(segments: readonly TcpSegment[], stations: readonly string[]): string[] {
  const found: string[] = [];
  const streams = new Map<number, Stream>();
  let station = 0;
  segments.forEach((segment, index) => {
    const { destinationPort, sequence, payload, sourceMac, at } = segment;
    const where = `segment ${index} (to port ${destinationPort}, at ${at.toFixed(2)})`;
    if (sourceMac !== stations[station]) {
      const next = stations.indexOf(sourceMac, station + 1);
      if (next === station + 1) station = next;
      else found.push(`${where} comes from ${sourceMac} while the process is at ${stations[station]}`);
    }
    let stream = streams.get(destinationPort);
    if (stream === undefined || segment.flags.has('SYN')) {
      stream = new Stream(sequence);
      streams.set(destinationPort, stream);
    }
    const data = segment.flags.has('SYN') ? (sequence + 1) | 0 : sequence;
    const differs = stream.add(data, payload);
    if (differs !== undefined) found.push(`${where} has other bytes than before from byte ${differs} of its stream on`);
  });
  if (station !== stations.length - 1)
    found.push(`the last segments come from ${stations[station]}, before the end of the way`);
  return found;
}
