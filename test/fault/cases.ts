import { type Role, STEPS, type StepName } from '../../cli/migration/steps.js';
import type { DaemonNode } from './fault-lab.js';

export interface Direction {
  readonly from: DaemonNode;
  readonly to: DaemonNode;
}

/** In this order one follows from the other. */
export const DIRECTIONS: readonly Direction[] = [
  { from: 'home', to: 'host1' },
  { from: 'host1', to: 'host2' },
  { from: 'host2', to: 'home' },
];

/** What is done while a daemon stands at a step. */
export const VICTIMS = [
  'home-daemon',
  'source-daemon',
  'destination-daemon',
  'criu-at-source',
  'criu-at-destination',
  'cli',
  'control-cut',
  'data-cut',
] as const;
/** Where memory follows a process: two of the three that bring it, in one moment. */
const PAGERS = 'pagers';
export type Victim = (typeof VICTIMS)[number] | typeof PAGERS;

/** What makes a migration fail by itself, on the whole way. */
export const OBSTACLES = ['disk-full', 'restore-fails'] as const;
export type Obstacle = (typeof OBSTACLES)[number];

export interface FaultCase extends Direction {
  /** Undefined: only the obstacle is in the way. */
  readonly step: StepName | undefined;
  readonly victim: Victim | undefined;
  readonly obstacle: Obstacle | undefined;
  /** The process has so much memory that it is copied while it runs; or some of it follows when it runs at its destination. */
  readonly memory?: 'large' | 'later';
}

/** Steps that only a migration that goes back comes to: it is given a destination where CRIU fails. */
const GOING_BACK = new Set<string>([
  'coordinator:reverting',
  'coordinator:source-aborted',
  'coordinator:put-back',
  'coordinator:reverted',
  'coordinator:destination-aborted',
  'coordinator:rolled-back',
  'source:vetoed',
  'source:repaired',
  'source:runs-again',
  'destination:cancelled',
  'destination:removed',
]);

/**
 * Steps of a migration whose process takes its files along: `lab/carry-crash` has crashes of its own at them. And those of one that
 * has much memory.
 */
const NOT_ALWAYS = /:(files|memory)-/;

/** Where large memory is on its way, is handed over, or has to be let go of. */
const LARGE: readonly StepName[] = [
  'source:memory-underway',
  'destination:memory-underway',
  'source:sent-ahead',
  'source:at-gate',
  'source:parked',
  'source:dumped',
  'source:sent',
  'source:let-end',
  'destination:receiving',
  'destination:received',
  'destination:restored',
  'destination:about-to-run',
  'coordinator:committed',
];

/** Where memory that follows is decided upon, is on its way, or is all there. */
const LATER: readonly StepName[] = [
  'source:sent-ahead',
  'source:dumped',
  'source:sent',
  'source:memory-following',
  'source:memory-acknowledged',
  'source:let-end',
  'destination:restored',
  'destination:about-to-run',
  'destination:confirmed',
  'destination:runs',
  'destination:memory-joined',
  'destination:memory-complete',
  'coordinator:restored',
  'coordinator:committed',
  'coordinator:destination-committed',
  'coordinator:forwarded',
  'coordinator:source-committed',
];

export function allSteps(): StepName[] {
  const steps = (Object.keys(STEPS) as Role[]).flatMap((role) =>
    STEPS[role].map((step) => `${role}:${step}` as StepName),
  );
  return steps.filter((step) => !NOT_ALWAYS.test(step));
}

/** The node whose daemon comes to a step. */
export function nodeOf(step: StepName, { from, to }: Direction): DaemonNode {
  if (step.startsWith('coordinator:')) return 'home';
  return step.startsWith('source:') ? from : to;
}

/** The daemons that a victim names; two names of the same daemon are one case. */
export function daemonOf(victim: Victim | undefined, { from, to }: Direction): DaemonNode | undefined {
  if (victim === 'home-daemon') return 'home';
  if (victim === 'source-daemon') return from;
  return victim === 'destination-daemon' ? to : undefined;
}

export function obstacleOf(step: StepName): Obstacle | undefined {
  return GOING_BACK.has(step) ? 'restore-fails' : undefined;
}

/**
 * Every step with every victim in every direction, and every obstacle alone, in an order that wanders with the process. The last
 * cases are those of a process with much memory, and of one whose memory follows.
 */
export function wholeMatrix(): FaultCase[] {
  return [
    ...casesOf(allSteps()),
    ...casesOf(LARGE).map((fault) => ({ ...fault, memory: 'large' as const })),
    ...casesOf(LATER, [...VICTIMS, PAGERS]).map((fault) => ({ ...fault, memory: 'later' as const })),
  ];
}

function casesOf(steps: readonly StepName[], victims: readonly Victim[] = VICTIMS): FaultCase[] {
  const cases: FaultCase[] = [];
  for (const direction of DIRECTIONS) {
    for (const obstacle of OBSTACLES) cases.push({ ...direction, step: undefined, victim: undefined, obstacle });
    for (const step of steps) {
      for (const victim of victims) {
        const daemon = daemonOf(victim, direction);
        const again = victim !== 'home-daemon' && daemon === 'home';
        if (!again) cases.push({ ...direction, step, victim, obstacle: obstacleOf(step) });
      }
    }
  }
  return cases;
}

/** Each step once, with the daemon that stands at it, in directions that take turns. */
export function reducedMatrix(): FaultCase[] {
  return allSteps().map((step, index) => {
    const direction = DIRECTIONS[index % DIRECTIONS.length] as Direction;
    const node = nodeOf(step, direction);
    const victim = node === 'home' ? 'home-daemon' : node === direction.from ? 'source-daemon' : 'destination-daemon';
    return { ...direction, step, victim, obstacle: obstacleOf(step) };
  });
}

const MEMORY = { large: 'much memory', later: 'memory that follows' } as const;

export function nameOf({ from, to, step, victim, obstacle, memory }: FaultCase): string {
  return [`${from} -> ${to}`, step ?? '', victim ?? '', obstacle ?? '', memory === undefined ? '' : MEMORY[memory]]
    .filter((word) => word !== '')
    .join(', ');
}
