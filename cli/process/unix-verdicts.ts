import type { UnixSocket } from '../system/unix-diag.js';
import type { Verdict } from './description.js';
import type { NeededFile } from './needs.js';
import type { Holder } from './sockets.js';
import { refused, willChange } from './verdicts.js';

export interface UnixFindings {
  readonly verdicts: readonly Verdict[];
  /** What must be there at the destination: sockets of services that it speaks to, folders of its own. */
  readonly files: readonly NeededFile[];
}

/**
 * Unix sockets of a tree with an end outside of it. CRIU (with --ext-unix-sk) connects a datagram socket again to the same
 * path, as to /dev/log; it cannot save half of a stream.
 */
export function unixVerdicts(
  sockets: readonly UnixSocket[],
  holders: ReadonlyMap<number, Holder>,
  /** Of somebody outside the tree. */
  nameOfHolder: (inode: number) => string | undefined,
): UnixFindings {
  const verdicts: Verdict[] = [];
  const files: NeededFile[] = [];
  const byInode = new Map(sockets.map((socket) => [socket.inode, socket]));
  const notAccepted = new Map(
    sockets.flatMap((listener) => listener.waiting.map((inode) => [inode, listener] as const)),
  );
  for (const socket of sockets) {
    const holder = holders.get(socket.inode);
    if (holder === undefined) continue;
    const subject = `fd ${holder.fd} of pid ${holder.pid}`;
    const path = pathOf(socket.name);
    if (socket.listening || (socket.type === 'datagram' && path !== undefined)) {
      if (path !== undefined) files.push({ path, use: 'listener' });
      if (path !== undefined) verdicts.push(listenerStays(subject, path));
      const strangers = socket.waiting.filter((inode) => !holders.has(inode));
      if (strangers.length > 0) verdicts.push(waiting(subject, socket.name ?? 'no name'));
    }
    const listener = notAccepted.get(socket.inode); // until it is accepted, its other end has no number
    if (listener !== undefined && !holders.has(listener.inode)) {
      verdicts.push(external(subject, listener, nameOfHolder(listener.inode)));
      continue;
    }
    const peer = socket.peer === undefined ? undefined : byInode.get(socket.peer);
    if (socket.peer === undefined || holders.has(socket.peer)) {
      const other = nameOfHolder(socket.inode);
      // one that neither hears anything nor is connected may be common: each speaks for itself
      if (other !== undefined && (socket.peer ?? socket.name) !== undefined) verdicts.push(common(subject, other));
      continue;
    }
    const service = pathOf(peer?.name);
    if (socket.type === 'datagram' && service !== undefined) {
      files.push({ path: service, use: 'peer' });
      verdicts.push(
        willChange(
          'UNIX_DATAGRAMS',
          subject,
          `what it sends to ${service} goes to the service of that path where it runs then`,
        ),
      );
    } else verdicts.push(external(subject, peer, nameOfHolder(socket.peer)));
  }
  return { verdicts, files };
}

function pathOf(name: string | undefined): string | undefined {
  return name?.startsWith('/') === true ? name : undefined;
}

/** Both accept and read from it: what comes to one after a move, the other misses. */
function common(subject: string, who: string): Verdict {
  return refused(
    'SHARED_DESCRIPTOR',
    subject,
    `it shares a unix socket with ${who}, which stays: each would go on with its own`,
    'move the process that both come from, or let one of them close it',
  );
}

function external(subject: string, peer: UnixSocket | undefined, who: string | undefined): Verdict {
  const to = peer?.name === undefined ? '' : ` by way of ${peer.name}`;
  const journal = peer?.name === '/run/systemd/journal/stdout';
  return refused(
    'FOREIGN_UNIX_SOCKET',
    subject,
    `its unix socket is connected${to} with ${who ?? 'a process outside the tree'}, which stays`,
    journal
      ? 'let the unit write elsewhere: StandardOutput=append:/var/log/NAME.log, and StandardError= the same'
      : 'let the program end that connection, or move the process that both come from',
  );
}

function listenerStays(subject: string, path: string): Verdict {
  return willChange(
    'UNIX_LISTENER',
    subject,
    `programs of this machine reach it at ${path} no more while it is away; those of its host do`,
  );
}

function waiting(subject: string, name: string): Verdict {
  return refused(
    'UNIX_BACKLOG',
    subject,
    `connections to ${name} wait that the program has not accepted`,
    'try again when it has',
  );
}
