import { writeFileSync } from 'node:fs';
import { findCriu } from '../../cli/checkpoint/criu.js';
import type { LabNode } from '../../cli/lab/lab-node.js';

const REDIS = '/usr/bin/redis-check-rdb';
/** What it does to the restore alone, in a mount namespace that ends with it: the executable has become another file. */
const wrapper = (programs: readonly string[]): string => `#!/bin/sh
[ "$1" = restore ] || exec /run/criu-itself "$@"
exec unshare --mount sh -c '${programs.map((program) => `mount --bind /dev/null ${program} && `).join('')}exec /run/criu-itself "$@"' criu "$@"
`;

/** Lets CRIU fail on a node when it restores one of those programs, as no verdict can foresee. @returns what undoes it */
export async function letRestoreFail(
  node: LabNode,
  programs: readonly string[] = [REDIS],
): Promise<() => Promise<void>> {
  const criu = findCriu('auto');
  await node.run(['cp', '--remove-destination', criu, '/run/criu-itself']);
  writeFileSync(node.path('/run/criu-fails'), wrapper(programs), { mode: 0o755 });
  await node.run(['mount', '--bind', '/run/criu-fails', criu]);
  return async () => {
    await node.run(['umount', '-l', criu]);
  };
}
