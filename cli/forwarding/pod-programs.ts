import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { BpfObject } from '../../addon/lib/index.js';

/** The two programs that run inside of pods (bpf/inside.h), as files of the bpffs. */
export const POD_PROGRAMS = { lo: 'hp_inside', link: 'hp_entry' } as const;

/** Pins this build's programs for the pods that are made from now on. */
export function pinPodPrograms(object: BpfObject, pins: string): void {
  mkdirSync(join(pins, 'programs'), { recursive: true, mode: 0o700 });
  for (const name of Object.values(POD_PROGRAMS)) {
    const pin = podProgram(pins, name);
    rmSync(pin, { force: true });
    const program = object.program(name);
    try {
      program.pin(pin);
    } finally {
      program.close();
    }
  }
}

export function podProgram(pins: string, name: (typeof POD_PROGRAMS)[keyof typeof POD_PROGRAMS]): string {
  return join(pins, 'programs', name);
}
