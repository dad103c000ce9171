import type { WriteStream } from 'node:tty';
import { ux } from '@oclif/core';
import { printableStyled } from './printable.js';

/** Where progress goes: a terminal (the running step is shown and replaced) or any stream (finished steps only). */
export type ProgressOutput = Pick<WriteStream, 'write'> & { readonly isTTY?: boolean };

/**
 * Live progress, one line per step. On a terminal the running step is visible and is overwritten by its outcome; elsewhere
 * only outcomes are written, so that a log holds one line per step.
 */
export class Progress {
  #running: string | undefined;

  constructor(
    private readonly output: ProgressOutput,
    private readonly silent: boolean,
  ) {}

  /** A step begins; `detail` may be repeated with new text (bytes so far). */
  start(step: string, detail = ''): void {
    if (this.silent || this.output.isTTY !== true) return;
    this.output.write(`\r\u001b[2K  … ${line(step, detail)}`);
    this.#running = step;
  }

  /** The step is done. */
  done(step: string, detail = ''): void {
    this.#finish(ux.colorize('green', '✔'), step, detail);
  }

  /** The step failed or was undone. */
  failed(step: string, detail = ''): void {
    this.#finish(ux.colorize('red', '✖'), step, detail);
  }

  /** A line between the steps. */
  note(text: string): void {
    if (this.silent) return;
    this.clear();
    this.output.write(`${text}\n`);
  }

  /** Removes the line of a running step, before something else is written. */
  clear(): void {
    if (this.#running === undefined) return;
    this.output.write('\r\u001b[2K');
    this.#running = undefined;
  }

  #finish(mark: string, step: string, detail: string): void {
    if (this.silent) return;
    this.clear();
    this.output.write(`  ${mark} ${line(step, detail)}\n`);
  }
}

function line(step: string, detail: string): string {
  return printableStyled(detail === '' ? step : `${step.padEnd(12)} ${detail}`);
}
