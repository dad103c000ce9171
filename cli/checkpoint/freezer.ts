import { Cgroup } from '../system/cgroup.js';
import { readProcess, readTree } from '../system/procfs.js';

/**
 * A cgroup that can stop a whole tree. CRIU's own seizure ends with CRIU: were it killed at `post-dump`, the tasks would run
 * on with sockets in repair mode. Tasks frozen by their cgroup stay stopped until we have repaired them.
 */
export interface FreezerRecord {
  readonly path: string;
  /** Where each member was before, to be put back. Empty for a cgroup that was the tree's own already. */
  readonly origins: readonly (readonly [pid: number, path: string])[];
}

/** What {@link gather} will make for a tree, to be written down before: the root's place stands for all. */
export function plannedFreezer(root: number, name: string): FreezerRecord {
  const origin = Cgroup.of(root);
  return { path: origin.child(name).path, origins: [[root, origin.path]] };
}

/**
 * Gathers a tree in a child of its root's own cgroup, so that all limits go on applying. Forks that happen meanwhile
 * are followed until no member is outside.
 */
export function gather(root: number, planned: FreezerRecord): FreezerRecord {
  const freezer = new Cgroup(planned.path).create();
  const origins: [number, string][] = [];
  for (let moved = true; moved; ) {
    moved = false;
    for (const pid of readTree(root)) {
      const current = Cgroup.of(pid).path;
      if (current === freezer.path || readProcess(pid)?.state === 'Z') continue; // a zombie stays where it ended
      origins.push([pid, current]);
      freezer.add(pid);
      moved = true;
    }
  }
  return { path: freezer.path, origins };
}

/**
 * Lets the members run, puts each back where it was (later children: where the first came from) and removes the cgroup.
 * Children that are born meanwhile are followed until nobody is left inside.
 */
export function scatter(record: FreezerRecord): void {
  const freezer = new Cgroup(record.path);
  if (!freezer.exists) return;
  freezer.setFrozen(false);
  const origins = new Map(record.origins);
  const fallback = record.origins[0]?.[1];
  for (const deadline = performance.now() + SCATTER_MS; ; sleepSync(1)) {
    for (const pid of freezer.processes()) {
      const origin = origins.get(pid) ?? fallback;
      if (origin !== undefined) new Cgroup(origin).add(pid);
    }
    try {
      freezer.remove();
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || performance.now() > deadline) throw error;
    }
  }
}

const SCATTER_MS = 2000;

function sleepSync(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
