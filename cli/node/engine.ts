import { setFlagsFromString } from 'node:v8';

/**
 * Keeps V8's own work out of freezes, where it takes processors from CRIU. Its optimizing compiler runs when code has become hot, which
 * is in the midst of the first migrations (10 to 25 ms of a freeze on two processors, measured); what a daemon runs by itself
 * is not worth it, the rest is libuv's and OpenSSL's. And it forgets the code of what has not run for some time, which is all
 * of a migration's in a daemon at rest, and would compile it again in the next freeze. For the begin of a program: later it
 * changes only what is compiled from then on.
 */
export function steadyEngine(): void {
  setFlagsFromString('--no-opt');
  setFlagsFromString('--no-flush-bytecode');
}
