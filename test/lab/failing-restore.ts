import { writeFileSync } from 'node:fs';
import { findCriu } from '../../cli/checkpoint/criu.js';
import type { LabNode } from '../../cli/lab/lab-node.js';

const PROGRAM = '/usr/bin/redis-check-rdb';
/** What it does to the restore alone, in a mount namespace that ends with it: the executable has become another file. */
const WRAPPER = `#!/bin/sh
[ "$1" = restore ] || exec /run/criu-itself "$@"
exec unshare --mount sh -c 'mount --bind /dev/null ${PROGRAM} && exec /run/criu-itself "$@"' criu "$@"
`;

/** Lets CRIU fail on a node when it restores Redis, as no verdict can foresee. @returns what undoes it */
export async function letRestoreFail(node: LabNode): Promise<() => Promise<void>> {
  const criu = findCriu('auto');
  await node.run(['cp', '--remove-destination', criu, '/run/criu-itself']);
  writeFileSync(node.path('/run/criu-fails'), WRAPPER, { mode: 0o755 });
  await node.run(['mount', '--bind', '/run/criu-fails', criu]);
  return async () => {
    await node.run(['umount', '-l', criu]);
  };
}
