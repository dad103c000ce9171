/**
 * The boundaries of the protocol, in the order in which a migration comes to them: between two of them a node does one thing
 * that a crash can cut short. The migration's own code announces each with {@link reached}; the journal keeps their times, and
 * the fault tests take from here the list of places at which everything must be able to die.
 */
export const STEPS = {
  coordinator: [
    'twin-made',
    'preparing',
    'prepared',
    'freezing',
    'new-held',
    'drained',
    'frozen',
    'parked',
    'transferred',
    'restored',
    'committed',
    'destination-committed',
    'forwarded',
    'source-committed',
    'source-finished',
    'twin-removed',
    'done',
    'reverting',
    'source-aborted',
    'put-back',
    'reverted',
    'destination-aborted',
    'rolled-back',
  ],
  source: [
    'noted',
    'gathered',
    'criu-started',
    'queue-opened',
    'ready',
    'files-sent',
    'memory-underway',
    'memory-slowed',
    'sent-ahead',
    'drained',
    'datagrams-held',
    'dumping',
    'at-gate',
    'parked',
    'dumped',
    'frozen',
    'files-complete',
    'sent',
    'forwarded',
    'memory-following',
    'memory-acknowledged',
    'let-end',
    'ended',
    'wiped',
    'removed',
    'vetoed',
    'repaired',
    'runs-again',
  ],
  destination: [
    'noted',
    'folder-made',
    'room-made',
    'criu-started',
    'files-offered',
    'files-received',
    'memory-underway',
    'ahead-received',
    'files-complete',
    'receiving',
    'received',
    'files-exchanged',
    'restoring',
    'restored',
    'released',
    'about-to-run',
    'confirmed',
    'speaks',
    'runs',
    'memory-joined',
    'memory-complete',
    'wiped',
    'forgotten',
    'cancelled',
    'removed',
  ],
} as const;

export type Role = keyof typeof STEPS;
export type StepOf<Name extends Role> = (typeof STEPS)[Name][number];
/** For example `source:dumped`. */
export type StepName = { [Name in Role]: `${Name}:${StepOf<Name>}` }[Role];

/** Told of each step; the migration goes on when it has returned. */
export type StepObserver = (step: StepName, migration: string) => void | Promise<void>;

const observers = new Set<StepObserver>();

/** @returns a function that ends it. */
export function observeSteps(observer: StepObserver): () => void {
  observers.add(observer);
  return () => observers.delete(observer);
}

/** Says that a migration has come to a boundary on this node. */
export async function reached<Name extends Role>(role: Name, step: StepOf<Name>, migration: string): Promise<void> {
  for (const observer of observers) await observer(`${role}:${step}` as StepName, migration);
}
