import type { Verdict } from '../process/description.js';
import { readProcessorFeatures } from '../system/processor.js';
import type { DestinationParticipant, InspectResponse, NodeName } from './messages.js';

/** What `check` and `--dry-run` show. */
export interface Assessment {
  readonly from: string;
  readonly moving: InspectResponse['moving'];
  readonly verdicts: Verdict[];
}

/** What a destination says to what the source has found. Asked of a home, of its process. */
export async function fitOf(
  home: NodeName,
  { description, needs, carried }: InspectResponse,
  destination: DestinationParticipant,
  twin?: string,
): Promise<readonly Verdict[]> {
  // it chose its code by what the processor of its home can do, wherever it has been since
  const asAtHome = { ...needs, cpuFeatures: readProcessorFeatures() };
  const files = { ...(carried === undefined ? {} : { carried }), ...(twin === undefined ? {} : { twin }) };
  return (await destination.assess({ home, description, needs: asAtHome, ...files })).verdicts;
}
