import type { CriuSession } from '../checkpoint/criu-session.js';
import type { BoundFlow } from '../process/description.js';
import type { BindingControl } from './binding-control.js';
import { type Departure, tooLate } from './departure.js';
import { awaitClosed } from './drain.js';
import { acceptedMeanwhile } from './staying-listeners.js';
import { reached } from './steps.js';

/**
 * When CRIU has stopped the process: from then on nothing comes to it and nothing is said in its name. Not before, for while it
 * runs it closes connections, and not later, for CRIU cannot dump a socket that changes.
 * @param control of the process's binding on this node
 * @returns connections that it has accepted since it was looked at
 * @throws {ExternalError} `CRIU_FAILED`. {UserError} `NO_GATE`; `ABORTED` when it was given up meanwhile
 */
export async function standStill(
  departure: Departure,
  session: CriuSession,
  control: BindingControl | undefined,
): Promise<BoundFlow[]> {
  const { record, gate, memory, drained } = departure;
  const { migration } = record.request;
  try {
    await gate?.reachedBy(session);
    await reached('source', 'at-gate', migration);
    if (control !== undefined && departure.resident === undefined) control.leaveBehind(record.ports);
    else await awaitClosed(record, departure.slow); // its pod does not outlive it
    if (departure.reverting) throw tooLate(migration);
    const atHome = departure.resident === undefined && drained !== undefined;
    const accepted = atHome ? acceptedMeanwhile(record, drained) : [];
    control?.claim({ ports: [], flows: accepted });
    control?.park();
    control?.silence();
    await reached('source', 'parked', migration);
    gate?.pass((await memory?.lastLook(record.localPids[0] ?? 0)) ?? new BigUint64Array());
    return accepted;
  } finally {
    gate?.close(); // CRIU fails where it stands, if nothing was said to it
  }
}
