// SPDX-License-Identifier: Apache-2.0
import { native } from './native.js';

const RECORD_BYTES = 56;

/** A TCP connection in repair mode. */
export interface SurveyedStream {
  /** 16 bytes in network order; IPv4 as v4-mapped. */
  readonly localAddress: Buffer;
  readonly localPort: number;
  readonly remoteAddress: Buffer;
  readonly remotePort: number;
  /** As include/net/tcp_states.h counts. */
  readonly state: number;
  /** The sequence number after the last byte (or FIN) that was written to it, acknowledged or not. */
  readonly sent: number;
  /** The sequence number after the last byte (or FIN) that has come to it, read or not. */
  readonly received: number;
  /** Bytes that have come and were not read. */
  readonly unread: number;
  /** Sequence numbers that were written and not acknowledged: bytes, and one for a FIN. */
  readonly unacknowledged: number;
}

/**
 * Asks the connections that processes hold in repair mode, each once and `limit` at most, on another thread: in the order of
 * the processes and their descriptors. Others, and processes that go meanwhile, are left out. Throws EPERM.
 */
export async function surveyStreams(pids: readonly number[], limit: number): Promise<SurveyedStream[]> {
  const records = await native.surveyStreams(Int32Array.from(pids), limit);
  return Array.from({ length: records.length / RECORD_BYTES }, (_none, index) => {
    const at = index * RECORD_BYTES;
    return {
      localAddress: records.subarray(at, at + 16),
      localPort: records.readUInt16LE(at + 16),
      remoteAddress: records.subarray(at + 18, at + 34),
      remotePort: records.readUInt16LE(at + 34),
      state: records.readUInt32LE(at + 36),
      sent: records.readUInt32LE(at + 40),
      received: records.readUInt32LE(at + 44),
      unread: records.readUInt32LE(at + 48),
      unacknowledged: records.readUInt32LE(at + 52),
    };
  });
}
