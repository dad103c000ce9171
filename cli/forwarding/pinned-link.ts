import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, unlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { BpfLink } from '../../addon/lib/index.js';
import type { LinkInfo } from '../../addon/lib/types.js';

/** The folder of the pinned links, in that of all pins. */
export const LINKS = 'links';
/** What a pin has behind its name until it is in its place. */
const STAGED = '-new';

/** Attaches and pins under a name of its own first: a pin in our place is always one of a program that is attached. */
export function attachPinned(pin: string, attach: () => BpfLink): void {
  const staged = `${pin}${STAGED}`;
  mkdirSync(dirname(pin), { recursive: true, mode: 0o700 });
  rmSync(staged, { force: true });
  const link = attach();
  try {
    link.pin(staged);
    renameSync(staged, pin);
  } catch (error) {
    rmSync(staged, { force: true });
    link.detach();
    throw error;
  } finally {
    link.close();
  }
}

/** What a daemon left that was killed while it pinned is attached: it comes into its place, to be adopted as all others are. */
export function finishPinned(pins: string): void {
  const folder = join(pins, LINKS);
  if (!existsSync(folder)) return;
  for (const name of readdirSync(folder).filter((each) => each.endsWith(STAGED)))
    renameSync(join(folder, name), join(folder, name.slice(0, -STAGED.length)));
}

/** Between two packets. */
export function updatePinned(pin: string, program: { readonly fd: number }): void {
  const link = BpfLink.openPinned(pin);
  try {
    link.update(program);
  } finally {
    link.close();
  }
}

/** What is pinned there; undefined when nothing is. */
export function readPinned(pin: string): LinkInfo | undefined {
  if (!existsSync(pin)) return undefined;
  const link = BpfLink.openPinned(pin);
  try {
    return link.info();
  } finally {
    link.close();
  }
}

/** Takes a pinned link's program off at once; without the detach it comes off some time after the last reference is gone. */
export function takeOff(pin: string): void {
  const link = BpfLink.openPinned(pin);
  try {
    link.detach();
  } finally {
    link.close();
    unlinkSync(pin);
  }
}
