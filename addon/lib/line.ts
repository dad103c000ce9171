// SPDX-License-Identifier: Apache-2.0
import { type NativeLine, native } from './native.js';

/** Bytes of the secret that the ends of a {@link Line} share: as many as the hash of its suite has. */
export const LINE_SECRET_BYTES = 48;

/** A process's later memory is sent over another line when its other end is silent for longer; it says something every second. */
const LATER_SILENCE_MS = 10_000;

/**
 * TLS 1.3 with a pre-shared key over a connection that is there already, in threads of its own: what goes over it takes no turn in
 * JavaScript. One call at a time. Every call throws {BpfError}: ECONNRESET or EPIPE when the other end is gone, ETIMEDOUT when it
 * is silent, EPROTO when it is another, ECANCELED when it says something instead of listening, ECONNABORTED after {@link cut},
 * EBUSY during another call.
 */
export class Line {
  readonly #native: NativeLine;

  /**
   * @param fd of a TCP connection that nobody else reads or writes any more; it is duplicated.
   * @param secret {@link LINE_SECRET_BYTES}, the same at both ends, and used once
   * @param patienceMs for how long the other end may be silent where it has to speak or to listen; -1: for ever
   */
  constructor(fd: number, secret: Uint8Array, role: 'client' | 'server', patienceMs: number) {
    this.#native = new native.Line(fd, secret, role === 'server', patienceMs);
  }

  /** Before anything else, at both ends. */
  async handshake(): Promise<void> {
    await this.#native.handshake();
  }

  async write(bytes: Uint8Array): Promise<void> {
    await this.#native.write(bytes);
  }

  /**
   * Sends memory of a process as records of `cli/memory/records.ts`.
   * @param ranges start and end of each, page-aligned. @param fresh nothing was ever sent of them: pages of zeros need no word
   * @returns how many bytes were there, and the ranges that were not. @throws {BpfError} also ESRCH, EPERM
   */
  async pages(
    pid: number,
    ranges: BigUint64Array,
    fresh: boolean,
  ): Promise<{ readonly bytes: number; readonly missed: BigUint64Array }> {
    const [bytes, missed] = await this.#native.pages(pid, ranges, fresh);
    return { bytes, missed };
  }

  /** Nothing more will be written; an answer may still come. */
  async finish(): Promise<void> {
    await this.#native.finish();
  }

  /** All that the other end says until it is through. @throws {BpfError} also EMSGSIZE: it is more than `limit` */
  async readAll(limit: number): Promise<Buffer> {
    return await this.#native.readAll(limit);
  }

  /**
   * Hands what comes to a descriptor whose writes may block, until the other end is through or so many bytes have come.
   * @throws {BpfError} also what writing throws: EPIPE of the call `write`
   */
  async relay(
    fd: number,
    limit = Number.POSITIVE_INFINITY,
  ): Promise<{ readonly bytes: number; readonly ended: boolean }> {
    const [bytes, ended] = await this.#native.relay(fd, limit);
    return { bytes, ended };
  }

  /**
   * At the source of a process that runs elsewhere already: sends memory of its copy here that the other end says is missing, and
   * first what is waited for there.
   * @param rate bytes per second of the rest, at most; 0: no limit. @param silenceMs ETIMEDOUT when it says nothing for longer, or takes nothing
   * @returns how many bytes were sent, when the other end has said that it has all. @throws {BpfError} also ESRCH, EFAULT
   */
  async serveLater(pid: number, rate: number, silenceMs = LATER_SILENCE_MS): Promise<number> {
    return await this.#native.serveLater(pid, rate, silenceMs);
  }

  /** How far {@link serveLater} is, in bytes: what the other end has said is missing there, and what was sent of that. */
  get later(): { readonly missing: number; readonly sent: number } {
    const [missing, sent] = this.#native.later();
    return { missing, sent };
  }

  /** Joins the other end with the pager of a folder, until either is through. @throws {BpfError} also of the calls `connect` and `send` */
  async exchange(folder: string): Promise<void> {
    await this.#native.exchange(folder);
  }

  /** The last word, while the other end may still be sending: the rest of that is thrown away. */
  async answer(bytes: Uint8Array): Promise<void> {
    await this.#native.answer(bytes);
  }

  /** @param rate bytes per second that are sent at most; 0: no limit */
  setPace(rate: number): void {
    this.#native.setPace(rate);
  }

  /**
   * Of the threads that work for it, at once, and of those of later calls. Without CAP_SYS_NICE it can only be raised.
   * @param nice undefined: the one that they would have without this
   */
  setNice(nice: number | undefined): void {
    this.#native.setNice(nice);
  }

  /** Bytes that it has sent or received so far, as the ends gave and took them. */
  get passed(): number {
    return this.#native.passed();
  }

  /** Ends the connection, whatever is going on. */
  cut(): void {
    this.#native.cut();
  }
}
