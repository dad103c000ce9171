// SPDX-License-Identifier: Apache-2.0
/**
 * To be imported first: runs the test file again in network and mount namespaces of its own, with a bpffs of its own,
 * so that nothing it creates or attaches is seen outside or stays behind.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const VARIABLE = 'HOMEPROXY_ADDON_TEST_FOLDER';

function runInside(): number {
  // Waits for the tests that the same signal ends, to take the folder away after them.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => undefined);
  const made = mkdtempSync(join(tmpdir(), 'homeproxy-addon-'));
  try {
    const command = ['--net', '--mount', process.execPath, ...process.execArgv, ...process.argv.slice(1)];
    const inside = spawnSync('unshare', command, { stdio: 'inherit', env: { ...process.env, [VARIABLE]: made } });
    return inside.status ?? 1;
  } finally {
    rmSync(made, { recursive: true });
  }
}

if (process.env[VARIABLE] === undefined) process.exit(runInside());

/** An empty folder that is removed after the tests. */
export const folder = process.env[VARIABLE];

/** Where maps, programs and links can be pinned. */
export const bpffs = join(folder, 'bpf');

mkdirSync(bpffs);
execFileSync('mount', ['-t', 'bpf', 'bpf', bpffs]);
// So that /sys/class/net shows the interfaces of the new namespace.
execFileSync('mount', ['-t', 'sysfs', 'sysfs', '/sys']);
execFileSync('ip', ['link', 'set', 'lo', 'up']);
