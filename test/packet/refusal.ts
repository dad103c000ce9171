import type { UserError } from '../../cli/errors.js';
import type { Datapath } from '../../cli/forwarding/datapath.js';

/** Why a datapath does not come onto its uplinks. */
export async function refusal(opening: Promise<Datapath>): Promise<UserError> {
  try {
    (await opening).close();
  } catch (error) {
    return error as UserError;
  }
  throw new Error('it was not refused');
}
