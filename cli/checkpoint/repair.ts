import { closeSync } from 'node:fs';
import { pidfdGetfd, pidfdOpen, setsockopt, tcpRepair, tcpRepairState } from '../../addon/lib/index.js';
import { readDescriptors } from '../system/procfs.js';

const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const TRUE = Buffer.from(new Int32Array([1]).buffer);

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
    if (tcpRepairState(socket) === 'off') return false;
    tcpRepair(socket, 'off');
    // Linux forgets SO_REUSEADDR with it, and nobody knows any more what it was. Without it the next server on this port would
    // find its address in use for as long as something is left of the connection.
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, TRUE);
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
