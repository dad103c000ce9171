import { closeSync, constants, openSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { makeFifo, pollReadable, setPipeSize } from '../../addon/lib/index.js';

/** The image with the memory of the tree's root, by far the largest one. */
export const PAGES = 'pages-1.img';

const PIPE_BYTES = 1 << 20;
const CHUNK_BYTES = 128 << 10;
/** Largest room that is made ahead for pages to come. */
const MAX_ROOM_BYTES = 32 << 20;

/**
 * The memory of a process on its way out of CRIU. `pages-1.img` is a FIFO in the folder of a dump: CRIU opens it for writing and
 * splices the pages into it. They travel while CRIU still dumps, are copied once instead of three times, and take no room here.
 *
 * Whoever opens the pipe has to read it to its end, or {@link discard}: CRIU stands while it is full. When the reader dies, the
 * dump fails (EPIPE) and CRIU lets the process go on; a CRIU that has not opened the pipe by then waits for a reader (fifo(7)),
 * which is what {@link adopt} is for.
 */
export class PagePipe {
  /** A writer has been there: from now on an empty read is the end, not the time before CRIU opens it (pipe(7), fifo(7)). */
  private written = false;
  private finished = false;
  private closed = false;
  private discarding = false;
  /** Where the next pages go; what was given to a reader is never written again. */
  private room: Buffer = Buffer.alloc(0);
  private waiting: { readonly filled: Promise<void>; readonly wake: () => void } | undefined;

  private constructor(private readonly fd: number) {}

  /** Makes the FIFO in the folder of a dump that has not begun, and opens it. */
  static create(folder: string): PagePipe {
    const path = join(folder, PAGES);
    makeFifo(path);
    return new PagePipe(openPipe(path));
  }

  /** Opens one that is there, perhaps with a CRIU that fills it; undefined when there is none. */
  static adopt(folder: string): PagePipe | undefined {
    const path = join(folder, PAGES);
    const isPipe = statSync(path, { throwIfNoEntry: false })?.isFIFO() === true; // a former version had a file there
    return isPipe ? new PagePipe(openPipe(path)) : undefined;
  }

  /**
   * Makes room for about so many bytes, while the process still runs: memory that is touched for the first time in the freeze
   * costs it up to 16 us a page, and garbage as large as that sets off a collection of V8's (10 to 30 ms).
   */
  expect(bytes: number): void {
    this.room = Buffer.alloc(Math.min(bytes + bytes / 4 + 8 * CHUNK_BYTES, MAX_ROOM_BYTES), 1); // with zeros it would not be touched
  }

  /** The pages as CRIU dumps them, until it closes its end. Who stops reading before lets the rest be discarded. */
  async *chunks(): AsyncGenerator<Buffer> {
    try {
      for (let chunk = this.read(); chunk !== 'end'; chunk = this.read()) {
        if (chunk === 'empty') await this.filled();
        else yield chunk;
      }
    } finally {
      this.discard();
    }
  }

  /** The dump is over: if CRIU has not opened the pipe by now, it never will. */
  finish(): void {
    this.finished = true;
    this.waiting?.wake();
  }

  /** Nobody wants the pages any more: lets CRIU get on, until it closes its end. */
  discard(): void {
    if (this.discarding) return;
    this.discarding = true;
    const drain = async (): Promise<void> => {
      while (this.read() !== 'end') await this.filled();
    };
    drain().catch(() => this.close()); // what CRIU does then ends at the limit of its time
  }

  /** CRIU has ended, or never started. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.waiting?.wake();
    closeSync(this.fd);
  }

  private read(): Buffer | 'empty' | 'end' {
    if (this.closed) return 'end';
    const inRoom = this.room.length >= CHUNK_BYTES;
    const chunk = inRoom ? this.room.subarray(0, CHUNK_BYTES) : Buffer.allocUnsafe(CHUNK_BYTES);
    let length = 0;
    try {
      length = readSync(this.fd, chunk);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
      this.written = true;
      return 'empty';
    }
    if (length > 0) {
      this.written = true;
      if (inRoom) this.room = this.room.subarray(length);
      return chunk.subarray(0, length);
    }
    if (!this.written && !this.finished) return 'empty';
    this.close();
    return 'end';
  }

  private filled(): Promise<void> {
    if (this.waiting !== undefined) return this.waiting.filled;
    let wake: () => void = () => undefined;
    const filled = new Promise<void>((resolve) => {
      const watch = pollReadable(this.fd, () => {
        this.written = true; // pages, or a writer that has come and gone
        wake();
      });
      wake = () => {
        watch.close();
        this.waiting = undefined;
        resolve();
      };
    });
    this.waiting = { filled, wake };
    return filled;
  }
}

function openPipe(path: string): number {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    setPipeSize(fd, PIPE_BYTES); // at the usual 64 KiB CRIU and we would wake each other for every 16 pages
  } catch {
    // it stays as it is: slower, nothing else
  }
  return fd;
}
