/** A reply of the Redis protocol, as far as counting needs it: the answer to INCR, or the reason why there is none. */
export type Reply =
  | { readonly kind: 'integer'; readonly value: number }
  | { readonly kind: 'status'; readonly text: string }
  | { readonly kind: 'error'; readonly text: string };

/** Bytes that no Redis sends: the stream cannot be trusted any further. */
export class ProtocolFault extends Error {
  override readonly name = 'ProtocolFault';
}

const LONGEST_LINE = 64 * 1024;
const CR = 0x0d;
const LF = 0x0a;
const INTEGER = /^-?\d{1,16}$/;

/** Cuts a byte stream into replies; it may be split at any byte. One parser per connection. */
export class ReplyParser {
  private rest: Buffer = Buffer.alloc(0);

  /**
   * Takes the next bytes, and returns the replies that they complete.
   * @throws {ProtocolFault} for bytes that are neither an integer, a status nor an error.
   */
  push(chunk: Buffer): Reply[] {
    const bytes = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk]);
    const replies: Reply[] = [];
    let start = 0;
    for (;;) {
      const end = bytes.indexOf(LF, start);
      if (end === -1) break;
      if (end === start || bytes[end - 1] !== CR) throw new ProtocolFault('a line does not end with CR LF');
      replies.push(parseLine(bytes.toString('latin1', start, end - 1)));
      start = end + 1;
    }
    this.rest = Buffer.from(bytes.subarray(start)); // a copy: the chunk's memory is the socket's
    if (this.rest.length > LONGEST_LINE) throw new ProtocolFault(`a line is longer than ${LONGEST_LINE} bytes`);
    return replies;
  }

  /** Bytes of a reply that has begun and is not complete. */
  get pendingBytes(): number {
    return this.rest.length;
  }
}

/** A request in the form that clients send: an array of bulk strings. */
export function encodeRequest(...words: readonly string[]): Buffer {
  const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
  return Buffer.from(`*${words.length}\r\n${parts.join('')}`);
}

function parseLine(line: string): Reply {
  const text = line.slice(1);
  switch (line[0]) {
    case ':': {
      const value = Number(text);
      if (!INTEGER.test(text) || !Number.isSafeInteger(value)) throw new ProtocolFault(`not an integer: ${line}`);
      return { kind: 'integer', value };
    }
    case '+':
      return { kind: 'status', text };
    case '-':
      return { kind: 'error', text };
    default:
      throw new ProtocolFault(`unexpected reply: ${JSON.stringify(line.slice(0, 40))}`);
  }
}
