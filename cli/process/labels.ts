import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { dirname } from 'node:path';
import { getxattr } from '../../addon/lib/index.js';
import { type Labels, parseLabels } from '../config/labels.js';
import { Cgroup, unifiedMount } from '../system/cgroup.js';

/** The variable by which a program is labelled when it is started: `HOMEPROXY_LABELS=tier=cache,app=shop`. */
const VARIABLE = 'HOMEPROXY_LABELS=';
/** The attribute of its cgroup that does the same: only root may set or read one of this name (xattr(7)). */
const ATTRIBUTE = 'trusted.homeproxy.labels';
/** Enough for any environment that a person writes; a process may have megabytes of it, and thousands are looked at. */
const MAX_ENVIRONMENT = 256 << 10;

const AT_SECURE = 23n; // include/uapi/linux/auxvec.h

/**
 * The labels of a process; none when it has ended, or even root may not look into it. Those of its cgroup come before those of its
 * environment, which a program may have written its title over.
 *
 * Who may label: root, by the cgroup; and whoever starts a process, as he may give it any name. So a label alone opens nothing: a policy that asks for one
 * must ask for a user, a unit or a cgroup too (`checkSelector`), which nobody can claim for himself. And a program that was given
 * somebody else's rights when it was started (set-user-id, file capabilities) is not heard, for its environment is that of its
 * caller: without this, any user could have processes of root moved that he may start.
 */
export function readLabels(pid: number): Labels {
  return { ...ofEnvironment(pid), ...ofCgroup(pid) };
}

/** Of the nearest cgroup that has some: a service may have cgroups of its own below that of its unit. */
function ofCgroup(pid: number): Labels {
  try {
    const top = unifiedMount();
    for (let { path } = Cgroup.of(pid); path.startsWith(top); path = dirname(path)) {
      const text = attributeOf(path);
      if (text !== undefined) return parseLabels(text);
      if (path === top) return {};
    }
  } catch {
    // it has ended, or there is no cgroup v2
  }
  return {};
}

function attributeOf(path: string): string | undefined {
  try {
    return getxattr(path, ATTRIBUTE).toString('utf8');
  } catch {
    return undefined; // ENODATA, or ENOTSUP before 3.7
  }
}

function ofEnvironment(pid: number): Labels {
  try {
    if (!hasCallersRights(readFileSync(`/proc/${pid}/auxv`))) return {};
    const found = readStart(`/proc/${pid}/environ`, MAX_ENVIRONMENT)
      .split('\0')
      .slice(0, -1) // the last is empty, or cut off
      .find((entry) => entry.startsWith(VARIABLE));
    return parseLabels(found?.slice(VARIABLE.length) ?? '');
  } catch {
    return {};
  }
}

/**
 * Whether the auxiliary vector of a process says in so many words that it was started with its caller's rights: pairs of words,
 * type and value. Of a 32-bit program, whose words are half as long, this never finds the entry with the value 0.
 */
export function hasCallersRights(auxiliary: Buffer): boolean {
  for (let at = 0; at + 16 <= auxiliary.length; at += 16) {
    if (auxiliary.readBigUInt64LE(at) === AT_SECURE) return auxiliary.readBigUInt64LE(at + 8) === 0n;
  }
  return false;
}

function readStart(path: string, bytes: number): string {
  const fd = openSync(path, 'r');
  try {
    const buffer = Buffer.alloc(bytes);
    let length = 0;
    for (;;) {
      const read = readSync(fd, buffer, length, bytes - length, null);
      length += read;
      if (read === 0 || length === bytes) return buffer.toString('utf8', 0, length);
    }
  } finally {
    closeSync(fd);
  }
}
