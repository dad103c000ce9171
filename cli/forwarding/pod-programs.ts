import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type BpfObject, BpfProgram, withNetworkNamespace } from '../../addon/lib/index.js';
import type { ClassifierChoice } from './classifier.js';

/** The two programs that run inside of pods (bpf/inside.h), as files of the bpffs. */
export const POD_PROGRAMS = { lo: 'hp_inside', link: 'hp_entry' } as const;

/** Where they are, and how they are attached. */
export interface PodPrograms {
  readonly pins: string;
  readonly classifier: ClassifierChoice['by'];
}

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

/**
 * Attaches the program of a pod's end of its link by tcx, until the link goes with the pod: there is nobody to hold one of tcx.
 * @param namespace the pod's, as a file
 * @param link the interface there
 */
export function attachEntry(pins: string, namespace: string, link: number): void {
  const program = BpfProgram.openPinned(podProgram(pins, POD_PROGRAMS.link));
  try {
    withNetworkNamespace(namespace, () => program.attachTcxForGood(link, 'ingress'));
  } finally {
    program.close();
  }
}
