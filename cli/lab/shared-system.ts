import { basename, dirname } from 'node:path';
import { readText } from '../system/procfs.js';
import { projectFile } from '../system/project.js';

/** Folders that every node has for itself; what the machine has mounted below them is out of the node's sight. */
const OWN_FOLDERS = ['/run', '/tmp', '/var', '/root', '/home', '/mnt', '/dev', '/proc', '/sys', '/etc'];

export interface SharedSystem {
  /** Mount points (without `/`) that a node sees as the machine does. */
  readonly mounts: readonly string[];
  /** Paths below a node's own folders that it needs all the same: the product, and Node.js. */
  readonly kept: readonly string[];
}

/** Which parts of this machine's file system the nodes of a lab share, all of them read-only. Parents come first. */
export function sharedSystem(): SharedSystem {
  const project = projectFile('').replace(/\/$/, '');
  const programs = dirname(process.execPath);
  const needed = [project, basename(programs) === 'bin' ? dirname(programs) : programs].filter(isOwn);
  const mounts = mountPoints(readText('/proc/self/mountinfo') ?? '');
  const below = mounts.filter((path) => needed.some((folder) => path.startsWith(`${folder}/`)));
  return {
    mounts: mounts.filter((path) => path !== '/' && !isOwn(path)),
    kept: parentsFirst([...needed, ...below]),
  };
}

/** The mount points in the text of a mountinfo file (proc(5)), without those that are mounted only when used. */
export function mountPoints(mountinfo: string): string[] {
  const paths: string[] = [];
  for (const line of mountinfo.split('\n')) {
    const [mount, source] = line.split(' - ');
    const path = mount?.split(' ')[4];
    if (path === undefined || source?.startsWith('autofs ')) continue;
    paths.push(
      path.replace(/\\([0-7]{3})/g, (_match, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))),
    );
  }
  return parentsFirst(paths);
}

function isOwn(path: string): boolean {
  return OWN_FOLDERS.some((folder) => path === folder || path.startsWith(`${folder}/`));
}

function parentsFirst(paths: readonly string[]): string[] {
  return [...new Set(paths)].sort();
}
