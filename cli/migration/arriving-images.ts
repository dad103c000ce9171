import { closeSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { isFull, openAhead, openInReserve } from '../checkpoint/image-folder.js';
import { inodeOfStream, StreamFile } from '../checkpoint/stream-file.js';
import { UserError } from '../errors.js';

/** What is known is copied in pieces of this size, through memory that was touched before. */
const COPY_BYTES = 256 << 10;
const copied = Buffer.alloc(COPY_BYTES, 1); // no call to copy waits for anything, so one is enough

/** What is written as its records come. */
export interface ArrivingImage {
  readonly name: string;
  /** @returns undefined when all of it had come already: of 10,000 connections each would wait otherwise */
  receive(reader: ByteReader, size: number): Promise<void> | undefined;
  /** Takes `size` bytes that were sent ahead. */
  recall(offset: number, size: number): void;
  /** It is whole. */
  finish(): void;
  close(): void;
}

/** Images of connections, which become one file. */
export class ArrivingStreams {
  private file: StreamFile | undefined;

  constructor(private readonly folder: string) {}

  /** Begins one; undefined when it is no connection's. */
  imageOf(name: string): ArrivingImage | undefined {
    const inode = inodeOfStream(name);
    if (inode === undefined) return undefined;
    const { folder } = this;
    this.file ??= withRoom(folder, () => new StreamFile(folder));
    const { file } = this;
    if (!file.begin(inode)) throw malformed(`it has ${name} twice`);
    return new ArrivingStream(name, folder, file);
  }

  finish(): void {
    const { file } = this;
    if (file !== undefined) withRoom(this.folder, () => file.finish());
    this.file = undefined;
  }

  close(): void {
    this.file?.close();
    this.file = undefined;
  }
}

class ArrivingStream implements ArrivingImage {
  constructor(
    readonly name: string,
    private readonly folder: string,
    private readonly file: StreamFile,
  ) {}

  receive(reader: ByteReader, size: number): Promise<void> | undefined {
    const whole = reader.ready(size);
    if (whole === undefined) return this.receiveParts(reader, size);
    this.add(whole);
    return undefined;
  }

  private async receiveParts(reader: ByteReader, size: number): Promise<void> {
    for (let left = size; left > 0; ) {
      const chunk = await reader.upTo(left);
      this.add(chunk);
      left -= chunk.length;
    }
  }

  private add(content: Buffer): void {
    withRoom(this.folder, () => this.file.add(content));
  }

  recall(): void {
    throw malformed('a connection that was sent ahead');
  }

  finish(): void {}

  close(): void {}
}

/** A file that is written as its records come. */
export class ArrivingFile implements ArrivingImage {
  private readonly fd: number;
  private ahead: number | undefined;
  private length = 0;

  /**
   * @param large whether it comes in parts: then it takes the room that was reserved
   * @param file its name here
   */
  constructor(
    private readonly folder: string,
    readonly name: string,
    private readonly large: boolean,
    file = name,
  ) {
    this.fd = withRoom(folder, () => (large ? openInReserve(folder, file) : openSync(join(folder, file), 'wx', 0o600)));
  }

  async receive(reader: ByteReader, size: number): Promise<void> {
    for (let left = size; left > 0; ) {
      const chunk = await reader.upTo(left);
      withRoom(this.folder, () => writeAll(this.fd, chunk));
      left -= chunk.length;
    }
    this.length += size;
  }

  recall(offset: number, size: number): void {
    this.ahead ??= openAhead(this.folder);
    for (let done = 0; done < size; ) {
      const wanted = Math.min(COPY_BYTES, size - done);
      const at = offset + done;
      const possible = Number.isSafeInteger(at); // readSync throws at any other position
      if (this.ahead === undefined || !possible || readSync(this.ahead, copied, 0, wanted, at) !== wanted) {
        throw malformed('it names pages that were not sent ahead');
      }
      withRoom(this.folder, () => writeAll(this.fd, copied.subarray(0, wanted)));
      done += wanted;
    }
    this.length += size;
  }

  finish(): void {
    if (this.large) ftruncateSync(this.fd, this.length);
    this.close();
  }

  close(): void {
    closeSync(this.fd);
    if (this.ahead !== undefined) closeSync(this.ahead);
  }
}

function withRoom<Result>(folder: string, act: () => Result): Result {
  try {
    return act();
  } catch (error) {
    if (!isFull(error)) throw error;
    throw new UserError({
      code: 'DISK_FULL',
      message: `there is no room for the checkpoint's images in ${folder}`,
      remedy: 'free memory or disk there, or point paths.run at a larger file system',
      exitStatus: 7,
    });
  }
}

function writeAll(fd: number, chunk: Buffer): void {
  for (let offset = 0; offset < chunk.length; ) offset += writeSync(fd, chunk, offset);
}

export function malformed(what: string): UserError {
  return new UserError({
    code: 'IMAGES_MALFORMED',
    message: `the images that arrived are not a whole checkpoint: ${what}`,
    remedy: "look at the source node's log; versions of homeproxy that differ can cause this",
    exitStatus: 4,
  });
}

/** Takes exact or bounded numbers of bytes from a chunked stream. */
export class ByteReader {
  private readonly chunks: AsyncIterator<Buffer>;
  private rest: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Buffer>) {
    this.chunks = source[Symbol.asyncIterator]();
  }

  /** Bytes that have come already; undefined when some of them have not. */
  ready(count: number): Buffer | undefined {
    if (this.rest.length < count) return undefined;
    const taken = this.rest.subarray(0, count);
    this.rest = this.rest.subarray(count);
    return taken;
  }

  async upTo(count: number): Promise<Buffer> {
    while (this.rest.length === 0) {
      const { value, done } = await this.chunks.next();
      if (done === true) throw malformed('it ends early');
      this.rest = value;
    }
    const taken = this.rest.subarray(0, count);
    this.rest = this.rest.subarray(taken.length);
    return taken;
  }

  async exactly(count: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (let left = count; left > 0; ) {
      const part = await this.upTo(left);
      parts.push(part);
      left -= part.length;
    }
    return parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts);
  }
}
