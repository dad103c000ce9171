import { closeSync, existsSync } from 'node:fs';
import {
  decodeNetlink,
  encodeNetlink,
  openSocketDiagnostics,
  receiveNetlink,
  sendNetlink,
  withNetworkNamespace,
} from '../../addon/lib/index.js';
import { ExternalError } from '../errors.js';

const SOCK_DIAG_BY_FAMILY = 20; // include/uapi/linux/sock_diag.h
export const TCPDIAG_GETSOCK = 18; // include/uapi/linux/inet_diag.h
const NLM_F_REQUEST = 1;
const NLM_F_DUMP = 0x300;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;

/** Kernel modules that answer; CRIU needs them too. */
export type DiagnosticsModule = 'unix_diag' | 'tcp_diag' | 'udp_diag';

/**
 * Asks the kernel for all sockets of a kind in the network namespace that `pid` is in (sock_diag(7)).
 * @param body the request's structure, as the module defines it
 * @param type of the request
 * @returns the structures that it answers with, each with its attributes; undefined when the process is gone
 * @throws {ExternalError} `NO_UNIX_DIAG`, `NO_TCP_DIAG`, `NO_UDP_DIAG` when the kernel was built without
 */
export function dumpSockets(
  pid: number | 'self',
  module: DiagnosticsModule,
  body: Buffer,
  type = SOCK_DIAG_BY_FAMILY,
): Buffer[] | undefined {
  const namespace = `/proc/${pid}/ns/net`;
  if (!existsSync(namespace)) return undefined;
  return withNetworkNamespace(namespace, () => {
    const fd = openSocketDiagnostics();
    try {
      const flags = NLM_F_REQUEST | NLM_F_DUMP;
      sendNetlink(fd, encodeNetlink({ type, flags, sequence: 1, body }, []));
      return answers(fd, module);
    } finally {
      closeSync(fd);
    }
  });
}

function answers(fd: number, module: DiagnosticsModule): Buffer[] {
  const bodies: Buffer[] = [];
  const buffer = Buffer.alloc(1 << 16);
  for (;;) {
    const length = receiveNetlink(fd, buffer);
    if (length < 0) return bodies;
    for (const { type, body } of decodeNetlink(buffer.subarray(0, length))) {
      if (type === NLMSG_DONE) return bodies;
      if (type === NLMSG_ERROR) {
        throw new ExternalError({
          code: `NO_${module.toUpperCase()}`,
          message: `the kernel does not show its sockets (error ${-body.readInt32LE(0)})`,
          command: `sock_diag of ${module}`,
          log: [],
          remedy: `load the module ${module}`,
        });
      }
      bodies.push(body);
    }
  }
}
