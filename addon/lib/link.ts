// SPDX-License-Identifier: Apache-2.0
import { unlinkSync } from 'node:fs';
import { BpfError } from './bpf-error.js';
import { type Descriptor, native, openFd } from './native.js';
import type { LinkInfo } from './types.js';

/** The attachment of a program: it lasts while the link is open or pinned. */
export class BpfLink {
  readonly #descriptor: Descriptor;
  #path: string | undefined;

  /** @internal Use `BpfProgram.attachXdp`, `attachTcx` or `openPinned`. */
  constructor(descriptor: Descriptor, path?: string) {
    this.#descriptor = descriptor;
    this.#path = path;
  }

  static openPinned(path: string): BpfLink {
    return new BpfLink(native.getPinned(path, 'bpf-link'), path);
  }

  get fd(): number {
    return openFd(this.#descriptor, 'BpfLink');
  }

  /** Where it is pinned, as far as this object knows. */
  get path(): string | undefined {
    return this.#path;
  }

  pin(path: string): void {
    native.pin(this.fd, path);
    this.#path = path;
  }

  /** Removes the pin that `pin` or `openPinned` named; the program stays attached until `close`. */
  unpin(): void {
    if (this.#path === undefined) {
      throw new BpfError({ code: 'ENOENT', errno: -2, syscall: 'unpin', description: 'the link is not pinned' });
    }
    unlinkSync(this.#path);
    this.#path = undefined;
  }

  /** Replaces the program between two packets. Throws ENOLINK when the interface is gone or the link was detached. */
  update(program: { readonly fd: number }): void {
    native.linkUpdate(this.fd, program.fd);
  }

  /** Takes the program off the interface though the link stays open. */
  detach(): void {
    native.linkDetach(this.fd);
  }

  info(): LinkInfo {
    return native.linkInfo(this.fd);
  }

  /** An unpinned link detaches, a pinned one stays. */
  close(): void {
    this.#descriptor.close();
  }
}
