// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { folder } from './private-namespaces.js';

const sources = fileURLToPath(new URL('../../../test/addon/fixtures/', import.meta.url));
let count = 0;

/** Compiles fixtures/<name>.bpf.c; returns the object's path. */
export function compile(name: string, defines: readonly string[] = []): string {
  const object = join(folder, `${name}.${count++}.o`);
  const include = execFileSync('cc', ['-print-multiarch'], { encoding: 'utf8' }).trim();
  execFileSync('clang', [
    ...['-target', 'bpf', '-O2', '-g', '-Wall', '-Werror', `-I/usr/include/${include}`],
    ...defines.map((define) => `-D${define}`),
    ...['-c', join(sources, `${name}.bpf.c`), '-o', object],
  ]);
  return object;
}

/** A 32-bit integer in host byte order, as keys and values of the fixtures are. */
export function u32(value: number): Buffer {
  return Buffer.from(new Uint32Array([value]).buffer);
}

export function u64(value: number | bigint): Buffer {
  return Buffer.from(new BigUint64Array([BigInt(value)]).buffer);
}

/** Makes a pair of interfaces; returns their indices. */
export function veth(name: string, peer: string): [number, number] {
  execFileSync('ip', ['link', 'add', name, 'type', 'veth', 'peer', 'name', peer]);
  for (const each of [name, peer]) execFileSync('ip', ['link', 'set', each, 'up']);
  return [ifindex(name), ifindex(peer)];
}

export function ifindex(name: string): number {
  const [link] = JSON.parse(execFileSync('ip', ['-j', 'link', 'show', name], { encoding: 'utf8' }));
  return link.ifindex;
}

/** Waits until something holds; an Error after 5 s. */
export async function until(holds: () => boolean, what: string): Promise<void> {
  for (const end = Date.now() + 5000; !holds(); ) {
    if (Date.now() > end) throw new Error(`waited in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
