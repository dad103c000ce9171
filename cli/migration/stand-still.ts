import type { CriuSession } from '../checkpoint/criu-session.js';
import type { BindingControl } from './binding-control.js';
import { awaitClosed } from './closing.js';
import { type Departure, tooLate } from './departure.js';
import type { FreezeResponse } from './messages.js';
import { acceptedMeanwhile } from './staying-listeners.js';
import { reached } from './steps.js';

/**
 * When CRIU has stopped the process: from then on nothing comes to it and nothing is said in its name. Not before, for while it
 * runs it closes connections, and not later, for CRIU cannot dump a socket that changes.
 * @param control of the process's binding on this node
 * @throws {ExternalError} `CRIU_FAILED`. {UserError} `NO_GATE`, `CLOSED_MEANWHILE`; `ABORTED` when it was given up meanwhile
 */
export async function standStill(
  departure: Departure,
  session: CriuSession,
  control: BindingControl | undefined,
): Promise<FreezeResponse> {
  const { record, gate, memory, drained } = departure;
  const { migration } = record.request;
  try {
    await gate?.reachedBy(session);
    const lifted = departure.throttle?.lift();
    lifted?.catch(() => undefined); // heard below
    await reached('source', 'at-gate', migration);
    const looking = memory?.lastLook(record.localPids[0] ?? 0); // on another thread, while we look at its connections
    looking?.catch(() => undefined); // heard below
    if (control !== undefined && departure.resident === undefined) control.leaveBehind(record.ports);
    const notKept = departure.resident === undefined ? [] : await awaitClosed(record, departure.lost);
    if (departure.reverting) throw tooLate(migration);
    const atHome = departure.resident === undefined && drained !== undefined;
    const accepted = atHome ? acceptedMeanwhile(record, drained) : [];
    control?.claim({ ports: [], flows: accepted });
    control?.park();
    control?.silence();
    await reached('source', 'parked', migration);
    const mappings = (await looking) ?? new BigUint64Array();
    await lifted; // CRIU's code has to run in it
    gate?.pass(mappings, memory?.mappingFlags);
    return { accepted, notKept };
  } finally {
    gate?.close(); // CRIU fails where it stands, if nothing was said to it
  }
}
