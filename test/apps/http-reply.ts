/** One reply of HTTP/1.1. */
export interface HttpReply {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Buffer;
}

const END_OF_HEAD = Buffer.from('\r\n\r\n');
const END_OF_LINE = Buffer.from('\r\n');

/** Takes a persistent connection's bytes as they come, and gives whole replies (RFC 9112, with a length or chunked). */
export class HttpReplyParser {
  #bytes: Buffer[] = [];
  #length = 0;
  /** Not worth another look with fewer bytes. */
  #wanted = 1;

  /** @throws {Error} for what is no reply of HTTP/1.1 */
  *push(chunk: Buffer): Generator<HttpReply> {
    this.#bytes.push(chunk);
    this.#length += chunk.length;
    while (this.#length >= this.#wanted) {
      const all = Buffer.concat(this.#bytes);
      this.#bytes = [all];
      const taken = take(all);
      if (typeof taken === 'number') {
        this.#wanted = taken;
        return;
      }
      const rest = all.subarray(taken.end);
      this.#bytes = rest.length === 0 ? [] : [rest];
      this.#length = rest.length;
      this.#wanted = 1;
      yield taken.reply;
    }
  }
}

/** @returns a reply and where it ends, or how many bytes there must be for the next try */
function take(bytes: Buffer): { reply: HttpReply; end: number } | number {
  const endOfHead = bytes.indexOf(END_OF_HEAD);
  if (endOfHead < 0) return bytes.length + 1;
  const [first = '', ...lines] = bytes.toString('latin1', 0, endOfHead).split('\r\n');
  const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(first)?.[1]);
  if (Number.isNaN(status)) throw new Error(`no reply of HTTP/1.1: ${JSON.stringify(first.slice(0, 80))}`);
  const headers = new Map(
    lines.map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    }),
  );
  const start = endOfHead + END_OF_HEAD.length;
  if (headers.get('transfer-encoding') === 'chunked') {
    const chunked = takeChunks(bytes, start);
    if (typeof chunked === 'number') return chunked;
    return { reply: { status, headers, body: chunked.body }, end: chunked.end };
  }
  const length = Number(headers.get('content-length'));
  if (Number.isNaN(length)) throw new Error(`a reply without length: ${first}`);
  const end = start + length;
  return bytes.length < end ? end : { reply: { status, headers, body: bytes.subarray(start, end) }, end };
}

function takeChunks(bytes: Buffer, start: number): { body: Buffer; end: number } | number {
  const parts: Buffer[] = [];
  for (let at = start; ; ) {
    const line = bytes.indexOf(END_OF_LINE, at);
    if (line < 0) return bytes.length + 1;
    const size = Number.parseInt(bytes.toString('latin1', at, line), 16);
    if (Number.isNaN(size)) throw new Error('a chunk without size');
    const from = line + END_OF_LINE.length;
    at = from + size + END_OF_LINE.length;
    if (bytes.length < at) return at;
    if (size === 0) return { body: Buffer.concat(parts), end: at };
    parts.push(bytes.subarray(from, from + size));
  }
}
