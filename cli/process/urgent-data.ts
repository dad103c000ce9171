import { SocketInterview } from './ask-socket.js';
import type { Verdict } from './description.js';
import { type Holder, type InternetSocket, readInternetSockets, readSocketHolders, type TcpState } from './sockets.js';
import { refused } from './verdicts.js';

/** A FIN that has come counts as something to read, and is no byte. */
const AFTER_FIN: readonly TcpState[] = ['CLOSE_WAIT', 'LAST_ACK', 'CLOSING'];
/** States of connections that may have something to read. */
export const WITH_DATA: readonly TcpState[] = ['ESTABLISHED', 'FIN_WAIT1', 'FIN_WAIT2', ...AFTER_FIN];
/** A running process reads meanwhile: what looks the same so often in a row is so. */
const ROUNDS = 3;

/** What has been read already of the sockets of a tree. */
interface Seen {
  /** Its connections, and perhaps others'. */
  readonly ours: readonly InternetSocket[];
  readonly holders?: ReadonlyMap<number, Holder>;
}

/**
 * Connections of a tree in whose unread data an urgent (out-of-band) byte is, read by itself or not, or in line (SO_OOBINLINE).
 * CRIU 4.2.1 takes what comes before it, and loses it and all that comes after it without a word (tried; it asks with SIOCINQ,
 * which ends there). Of one in line it fails to read what SIOCINQ promises: a read ends at the mark (tcp_recvmsg_locked). Where
 * reading would go on at the mark it takes all, and the mark is lost: what came into a receive queue through repair mode has none.
 */
export function urgentVerdicts(pids: readonly number[], seen?: Seen): Verdict[] {
  let suspects = (seen?.ours ?? connectionsOf(pids)).filter(
    ({ transport, receiveQueue, state }) =>
      transport.startsWith('tcp') && receiveQueue > 0 && WITH_DATA.includes(state),
  );
  if (suspects.length === 0) return []; // the tree's descriptors may be thousands
  const holders = seen?.holders ?? readSocketHolders(pids);
  for (let round = 1; ; round++) {
    suspects = withUrgent(suspects, holders);
    if (suspects.length === 0 || round === ROUNDS) return suspects.map(({ inode }) => urgent(holders.get(inode)));
    const before = new Map(suspects.map(({ inode, receiveQueue }) => [inode, receiveQueue]));
    suspects = connectionsOf(pids).filter(({ inode, receiveQueue }) => before.get(inode) === receiveQueue);
  }
}

function connectionsOf(pids: readonly number[]): InternetSocket[] {
  return readInternetSockets(pids[0] ?? 0, ['tcp', 'tcp6'], WITH_DATA);
}

/** Those of which less can be read than has come, and those that have it in line. */
function withUrgent(sockets: readonly InternetSocket[], holders: ReadonlyMap<number, Holder>): InternetSocket[] {
  const interview = new SocketInterview();
  try {
    return sockets.filter((socket) => {
      const holder = holders.get(socket.inode);
      if (holder === undefined) return false;
      const fin = AFTER_FIN.includes(socket.state) ? 1 : 0;
      const found = interview.with(holder, (asked) => {
        const readable = asked.unread();
        return readable !== undefined && (readable + fin < socket.receiveQueue || asked.urgent());
      });
      return found === true;
    });
  } finally {
    interview.close();
  }
}

function urgent(holder: Holder | undefined): Verdict {
  return refused(
    'URGENT_DATA',
    `fd ${holder?.fd} of pid ${holder?.pid}`,
    'an urgent (out-of-band) byte is in what has come on its connection and was not read, which CRIU cannot carry',
    'try again when the program has read it, or end that connection',
  );
}
