import { mkdirSync, renameSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { readText } from '../system/procfs.js';

/** A process, and proof that its pid has not been given to another one since. */
const processRecord = z.object({ pid: z.int(), startTime: z.string() });
export type ProcessRecord = z.output<typeof processRecord>;

const labState = z.object({
  version: z.literal(1),
  name: z.string(),
  attach: z.enum(['auto', 'xdp', 'xdp-generic', 'tc']),
  /** Whether the links leave checksums and segmentation to whoever receives. */
  offloads: z.boolean().default(false),
  switch: processRecord,
  nodes: z.array(
    z.object({
      name: z.string(),
      role: z.enum(['client', 'home', 'host']),
      address: z.string(),
      address6: z.string(),
      /** Its pid 1, as this machine numbers it. */
      init: processRecord,
      /** Its cgroup on this machine. */
      cgroup: z.string(),
      /** Its daemon, as this machine numbers it; absent when none was started or it was stopped. */
      daemon: processRecord.optional(),
    }),
  ),
});

/** What is known of a lab that is up. It is written once the network stands, so a lab without it is half built. */
export type LabState = z.output<typeof labState>;
export type NodeState = LabState['nodes'][number];

const BASE = '/run/homeproxy-lab';

/** The files of a lab on this machine. All are below a folder that only root can enter. */
export class LabFiles {
  readonly folder: string;
  readonly lock: string;

  constructor(readonly name: string) {
    this.folder = join(BASE, name);
    this.lock = join(BASE, `${name}.lock`);
  }

  /** Where a node's root file system is put together, in the node's own mount namespace: here it stays an empty folder. */
  get root(): string {
    return join(this.folder, 'root');
  }

  get authorityCertificate(): string {
    return join(this.folder, 'ca.pem');
  }

  /** Stays on this machine: no node can see it. */
  get authorityKey(): string {
    return join(this.folder, 'ca.key');
  }

  create(): void {
    mkdirSync(BASE, { recursive: true, mode: 0o700 });
    mkdirSync(this.folder, { mode: 0o700 });
    mkdirSync(this.root, { mode: 0o700 });
  }

  read(): LabState | undefined {
    const text = readText(join(this.folder, 'state.json'));
    if (text === undefined) return undefined;
    try {
      return labState.parse(JSON.parse(text));
    } catch {
      return undefined; // of another version: it can only be taken down
    }
  }

  write(state: LabState): void {
    const path = join(this.folder, 'state.json');
    writeFileSync(`${path}.new`, `${JSON.stringify(state)}\n`, { mode: 0o600 });
    renameSync(`${path}.new`, path);
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** Removes the lock file, and the folder of all labs when this was the last one. Only the lock's holder may do it. */
  removeLock(): void {
    rmSync(this.lock, { force: true });
    try {
      rmdirSync(BASE);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== 'ENOTEMPTY' && code !== 'ENOENT') throw error;
    }
  }
}
