import { closeSync } from 'node:fs';
import { pidfdGetfd, pidfdOpen, tcpRepair } from '../../addon/lib/index.js';
import { readDescriptors } from '../system/procfs.js';

/**
 * Takes the sockets of a tree out of TCP_REPAIR. CRIU does so itself when a dump is vetoed; when it was killed while it held
 * the tree, nobody did, and every recv() would fail with EPERM. The tasks must be stopped (frozen cgroup) meanwhile.
 * @returns how many sockets were in repair mode.
 */
export function endRepair(pids: readonly number[]): number {
  let repaired = 0;
  for (const pid of pids) {
    let pidfd: number;
    try {
      pidfd = pidfdOpen(pid);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ESRCH') continue;
      throw error;
    }
    try {
      for (const { fd, target } of readDescriptors(pid)) {
        if (target.startsWith('socket:') && endSocketRepair(pidfd, fd)) repaired++;
      }
    } finally {
      closeSync(pidfd);
    }
  }
  return repaired;
}

function endSocketRepair(pidfd: number, fd: number): boolean {
  const socket = pidfdGetfd(pidfd, fd);
  try {
    tcpRepair(socket, 'off');
    return true;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    // not TCP, or a TCP socket in a state that has no repair mode (a listener)
    if (code === 'ENOPROTOOPT' || code === 'EOPNOTSUPP' || code === 'EPERM' || code === 'EINVAL') return false;
    throw error;
  } finally {
    closeSync(socket);
  }
}
