import { BpfProgram, programInfo, tcAttach, tcQuery, tcxQuery } from '../../addon/lib/index.js';
import type { TcDirection } from '../../addon/lib/types.js';

/** A tc program of ours on one side of an interface. */
export interface Classifier {
  readonly by: 'tcx' | 'filter';
  readonly programId: number;
}

const PLACE = { priority: 0x6870, handle: 1 };

/** Those that are there, in the order in which packets meet them. */
export function classifiers(ifindex: number, direction: TcDirection): Classifier[] {
  const byTcx = tcxQuery(ifindex, direction).filter(({ programId }) => programInfo(programId).name.startsWith('hp_'));
  const filter = tcQuery({ ifindex, direction, ...PLACE });
  return [
    ...byTcx.map(({ programId }) => ({ by: 'tcx', programId }) as const),
    ...(filter === undefined ? [] : [{ by: 'filter', programId: filter.programId } as const]),
  ];
}

/** The id of the one that is there; undefined where none is. Two are an Error. */
export function classifier(ifindex: number, direction: TcDirection): number | undefined {
  const [only, other] = classifiers(ifindex, direction);
  if (other !== undefined) throw new Error(`interface ${ifindex} has two of our programs at its ${direction}`);
  return only?.programId;
}

/** Attaches what is there by tcx as a filter too: so it is left by a daemon that is killed while it goes over to tcx. */
export function asFilterToo(ifindex: number, direction: TcDirection): void {
  const program = BpfProgram.openById(classifier(ifindex, direction) ?? 0);
  tcAttach({ ifindex, direction, ...PLACE, program });
  program.close();
}
