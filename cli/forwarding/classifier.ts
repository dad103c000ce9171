import { type BpfObject, tcxQuery } from '../../addon/lib/index.js';
import type { ProgramInfo, TcDirection } from '../../addon/lib/types.js';
import type { AttachmentFolders } from './attachment-folders.js';
import { Changes } from './changes.js';
import { attachFilter, detachFilter, findFilter, withdrawFilter } from './tc-filter.js';
import { attachTcx, detachTcx, findTcx, withdrawTcx } from './tcx.js';

/** How the tc programs are attached. By tcx (6.6) the kernel runs them itself, without a classifier and its qdisc around. */
export interface ClassifierChoice {
  readonly by: 'tcx' | 'filter';
  /** Why, for people. */
  readonly reason: string;
}

const LOOPBACK_IFINDEX = 1;

/** What this kernel has, by asking it: tcx is an option of its build (CONFIG_NET_XGRESS), and others may have ported it back. */
export function chooseClassifier({ tcx }: AttachmentFolders): ClassifierChoice {
  if (tcx === false) return { by: 'filter', reason: 'as configured' };
  try {
    tcxQuery(LOOPBACK_IFINDEX, 'ingress');
    return { by: 'tcx', reason: 'the kernel has it' };
  } catch (error) {
    if ((error as { code?: string }).code !== 'EINVAL') throw error;
    return { by: 'filter', reason: 'the kernel has no tcx' };
  }
}

/**
 * Attaches one of our tc programs to a device. What a previous daemon attached in the other way is taken off behind it: for
 * some milliseconds both judge, and decide the same.
 * @throws {UserError} `TC_TAKEN` when it is to be a filter and a foreign one has our place.
 */
export function attachClassifier(
  object: BpfObject,
  folders: AttachmentFolders,
  ifindex: number,
  direction: TcDirection,
  programName: string,
  changes = new Changes(),
): void {
  if (chooseClassifier(folders).by === 'tcx') {
    attachTcx(object, folders, ifindex, direction, programName, changes);
    withdrawFilter(ifindex, direction, changes);
  } else {
    attachFilter(object, folders, ifindex, direction, programName, changes);
    withdrawTcx(folders, ifindex, direction, changes);
  }
}

/** Takes our tc program off a device, however it is attached. @returns whether there was one. */
export function detachClassifier(folders: AttachmentFolders, ifindex: number, direction: TcDirection): boolean {
  const [byTcx, byFilter] = [detachTcx(folders, ifindex, direction), detachFilter(ifindex, direction)];
  return byTcx || byFilter;
}

/** Our tc program on a device, however it is attached; undefined also when the device is gone. */
export function findClassifier(
  folders: AttachmentFolders,
  ifindex: number,
  direction: TcDirection,
): ProgramInfo | undefined {
  return findTcx(folders, ifindex, direction) ?? findFilter(ifindex, direction);
}
