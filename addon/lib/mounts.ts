// SPDX-License-Identifier: Apache-2.0
import { closeSync, openSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { native } from './native.js';

/** One thing to do in another mount namespace; every path is one of that namespace. */
export type MountStep =
  | { readonly do: 'mkdir'; readonly path: string; readonly mode: number }
  | { readonly do: 'touch' | 'rmdir' | 'detach'; readonly path: string }
  | { readonly do: 'symlink'; readonly target: string; readonly path: string }
  | {
      readonly do: 'mknod';
      readonly path: string;
      readonly mode: number;
      readonly major: number;
      readonly minor: number;
    }
  | {
      readonly do: 'mount';
      readonly source: string;
      readonly path: string;
      readonly type?: string;
      /** MS_* of mount(2). */
      readonly flags?: number;
      readonly data?: string;
    }
  /** Puts what {@link cloneMount} returned there. */
  | { readonly do: 'attach'; readonly tree: number; readonly path: string }
  /** Makes a mount point the root of the namespace and of all who have the old one, and takes the old one away. */
  | { readonly do: 'pivot'; readonly path: string };

/** MS_BIND, MS_REC, MS_NOSUID and their kind, of mount(2). */
export const MS = { NOSUID: 2, NOEXEC: 8, BIND: 4096, REC: 16384 } as const;

/**
 * Does things in the mount namespace of a process, on a thread of their own; this one stays where it is. What exists already
 * (mkdir, symlink), or is gone or in use (detach, rmdir), is no failure.
 * @throws {BpfError} of the first step that fails; those before it are done.
 */
export function inMountNamespace(pid: number, steps: readonly MountStep[]): void {
  const namespace = openSync(`/proc/${pid}/ns/mnt`, 'r');
  try {
    native.inMountNamespace(namespace, steps.map(encode));
  } finally {
    closeSync(namespace);
  }
}

/** A copy of the mount that holds a path, from there down, for {@link inMountNamespace} to attach; the caller closes it. */
export function cloneMount(path: string, readOnly: boolean): number {
  return native.cloneMount(path, readOnly);
}

/**
 * Opens what is below an open folder: no `..`, no absolute path and no symbolic link on the way, or at its end, leads out of it
 * or anywhere (openat2(2), RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS).
 * @param flags O_* of `fs.constants`; the descriptor is closed on exec.
 * @throws {BpfError} `EXDEV`, `ELOOP` for such a path, and what open(2) throws
 */
export function openBeneath(folder: number, path: string, flags: number, mode = 0): number {
  return native.openBeneath(folder, path, flags, mode);
}

/** The library that does in CRIU what a script would at its hooks. */
export function criuHooksLibrary(): string {
  return fileURLToPath(new URL('../../../addon/build/Release/criu_hooks.node', import.meta.url));
}

function encode(step: MountStep): readonly [string, readonly string[], readonly number[]] {
  switch (step.do) {
    case 'mkdir':
      return ['mkdir', [step.path], [step.mode]];
    case 'symlink':
      return ['symlink', [step.target, step.path], []];
    case 'mknod':
      return ['mknod', [step.path], [step.mode, step.major, step.minor]];
    case 'mount':
      return ['mount', [step.source, step.path, step.type ?? '', step.data ?? ''], [step.flags ?? 0]];
    case 'attach':
      return ['attach', [step.path], [step.tree]];
    default:
      return [step.do, [step.path], []];
  }
}
