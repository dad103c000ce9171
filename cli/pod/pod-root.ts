import { chmodSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { inMountNamespace, MS } from '../../addon/lib/index.js';

const MS_RDONLY = 1;
const MS_REMOUNT = 32;

/** Character devices that every pod with a root of its own has: name, mode, major, minor (Documentation/admin-guide/devices.txt). */
const DEVICES: readonly (readonly [string, number, number, number])[] = [
  ['null', 0o666, 1, 3],
  ['zero', 0o666, 1, 5],
  ['full', 0o666, 1, 7],
  ['random', 0o666, 1, 8],
  ['urandom', 0o666, 1, 9],
  ['tty', 0o666, 5, 0],
  ['net/tun', 0o600, 10, 200], // CRIU asks what the kernel's can do
];

/** Where a process finds them. */
export const DEVICE_PATHS: readonly string[] = DEVICES.map(([name]) => `/dev/${name}`);

const LINKS: readonly (readonly [string, string])[] = [
  ['fd', '/proc/self/fd'],
  ['stdin', '/proc/self/fd/0'],
  ['stdout', '/proc/self/fd/1'],
  ['stderr', '/proc/self/fd/2'],
  ['ptmx', 'pts/ptmx'],
];

/** Makes the folder that becomes the root of a pod: nothing but the mount points, and /tmp. */
export function createRootFolder(folder: string): void {
  for (const [name, mode] of [
    ['', 0o755],
    ['proc', 0o755],
    ['sys', 0o755],
    ['dev', 0o755],
    ['tmp', 0o1777],
  ] as const) {
    mkdirSync(join(folder, name), { recursive: true });
    chmodSync(join(folder, name), mode); // whatever the umask of this daemon
  }
}

/**
 * Makes a folder the root of a pod, with kernel file systems and devices of its own in it; what the pod had before is out of its
 * sight. What is not in the folder is not there for its processes: never in another version.
 */
export function enterRoot(init: number, folder: string): void {
  const at = (path: string): string => join(folder, path);
  inMountNamespace(init, [
    { do: 'mount', source: folder, path: folder, flags: MS.BIND },
    { do: 'mount', source: '/proc', path: at('proc'), flags: MS.BIND | MS.REC },
    { do: 'mount', source: '/sys', path: at('sys'), flags: MS.BIND },
    { do: 'mount', source: 'none', path: at('sys'), flags: MS_REMOUNT | MS.BIND | MS_RDONLY },
    { do: 'mount', source: 'homeproxy', path: at('dev'), type: 'tmpfs', flags: MS.NOSUID, data: 'mode=0755' },
    { do: 'mkdir', path: at('dev/net'), mode: 0o755 },
    { do: 'mkdir', path: at('dev/pts'), mode: 0o755 },
    { do: 'mkdir', path: at('dev/shm'), mode: 0o1777 },
    {
      do: 'mount',
      source: 'devpts',
      path: at('dev/pts'),
      type: 'devpts',
      flags: MS.NOSUID | MS.NOEXEC,
      data: 'newinstance,ptmxmode=0666,mode=0620,gid=5',
    },
    ...DEVICES.map(([name, mode, major, minor]) => ({
      do: 'mknod' as const,
      path: at(`dev/${name}`),
      mode,
      major,
      minor,
    })),
    ...LINKS.map(([name, target]) => ({ do: 'symlink' as const, target, path: at(`dev/${name}`) })),
    { do: 'pivot', path: folder },
  ]);
}
