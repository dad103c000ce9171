/*
 * node dist/test/fault/matrix-main.js [--json] [--reduced] [--step PATTERN] [--victim PATTERN] [--direction PATTERN]
 *   [--memory PATTERN]     small, large or later
 *   [--take N --seed S]    N cases, drawn and ordered by the seed
 *   [--labs N]             as many at the same time, each in a lab of its own (default 3: most of a case is waiting)
 * Kills every component at every step of the protocol, in every direction, and looks what became of the process.
 * Exit status: 0 all cases passed; 1 not; 130 interrupted.
 */
import { parseArgs } from 'node:util';
import { Lab } from '../../cli/lab/lab.js';
import { textTable } from '../../cli/text-table.js';
import { downAll } from '../lab/lab-fixture.js';
import { faultsOf, NO_FAULTS } from '../lab/load.js';
import { type FaultCase, nameOf, reducedMatrix, wholeMatrix } from './cases.js';
import { randomFrom, shuffle } from './chance.js';
import { FaultLab } from './fault-lab.js';
import { type CaseResult, runCase } from './run-case.js';

const text = { type: 'string' } as const;
const flag = { type: 'boolean', default: false } as const;
const { values } = parseArgs({
  options: {
    json: flag,
    reduced: flag,
    step: text,
    victim: text,
    direction: text,
    memory: text,
    take: text,
    seed: text,
    labs: { type: 'string', default: '3' },
  },
});

/** More than what makes memory large (`MIN_MEMORY_BYTES`), in megabytes. */
const LARGE_MB = 100;

const wanted = (values.reduced ? reducedMatrix() : wholeMatrix()).filter(
  (fault) =>
    matches(values.step, fault.step ?? fault.obstacle) &&
    matches(values.victim, fault.victim) &&
    matches(values.direction, `${fault.from}-${fault.to}`) &&
    matches(values.memory, fault.memory ?? 'small'),
);
const cases =
  values.take === undefined
    ? wanted
    : shuffle(wanted, randomFrom(Number(values.seed ?? 1))).slice(0, Number(values.take));
const say = (line: string): void => {
  if (!values.json) console.log(line);
};

const results: CaseResult[] = [];
const clientFaults: string[] = [];
const queue = cases.values();
let interrupted = false;
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    interrupted = true; // the labs go down under the cases that run: no other may begin
  });
}
try {
  await Promise.all(Array.from({ length: Number(values.labs) }, (_, index) => work(index + 1)));
} finally {
  await downAll();
}
report();

/** Takes case after case into a lab of its own; one that a case has left broken is replaced. */
async function work(number: number): Promise<void> {
  let lab: FaultLab | undefined;
  let large = false;
  for (const fault of queue) {
    if (interrupted) return;
    if (lab !== undefined && large !== (fault.memory !== undefined)) {
      await endLab(lab, false);
      lab = undefined;
    }
    large = fault.memory !== undefined;
    lab ??= await freshLab(number, large);
    const result = await runCase(lab, fault);
    if (interrupted) return;
    results.push(result);
    const verdict = result.faults.length === 0 ? 'ok  ' : 'FAIL';
    say(
      `${verdict} ${results.length}/${cases.length} ${nameOf(fault)}: ${result.outcome}, stall ${result.stallMs.toFixed(0)} ms (${result.seconds.toFixed(1)} s)`,
    );
    for (const found of result.faults) say(`       ${found}`);
    if (result.faults.length > 0) {
      for (const node of ['home', 'host1', 'host2'] as const) say(`       ${node}: ${lab.logOf(node)}`);
      await endLab(lab, true);
      lab = undefined;
    }
  }
  if (lab !== undefined) await endLab(lab, false);
}

async function freshLab(number: number, large: boolean): Promise<FaultLab> {
  const made = await FaultLab.start(`fault${number}`, large ? LARGE_MB : 0);
  await made.learn();
  return made;
}

/** Ends a lab and hears what its client has to say about all the cases together. */
async function endLab(ending: FaultLab, broken: boolean): Promise<void> {
  const result = await ending.load.stop().catch((error: unknown) => error as Error);
  await Lab.down(ending.lab.name, { reaped: false });
  if (broken) return; // counted already
  if (result instanceof Error) clientFaults.push(result.message);
  else if (JSON.stringify(faultsOf(result)) !== JSON.stringify(NO_FAULTS)) {
    clientFaults.push(JSON.stringify(faultsOf(result)));
  }
}

function report(): void {
  results.sort((one, other) => cases.indexOf(one.case) - cases.indexOf(other.case));
  const failed = results.filter(({ faults }) => faults.length > 0);
  const longestStallMs = Math.round(Math.max(0, ...results.map(({ stallMs }) => stallMs)));
  // of a part of the matrix nothing follows
  const whole = [values.take, values.step, values.victim, values.direction, values.memory].every(
    (filter) => filter === undefined,
  );
  const unreached = whole ? stepsNeverReached() : [];
  if (!values.json) {
    console.log(`\n${table()}`);
    for (const { case: fault, faults } of failed) console.log(`FAIL ${nameOf(fault)}: ${faults.join('; ')}`);
    for (const fault of clientFaults) console.log(`FAIL the client: ${fault}`);
    for (const step of unreached) console.log(`FAIL no migration came to ${step}`);
    console.log(
      `\n${results.length} cases, ${results.length - failed.length} passed, longest stall ${longestStallMs} ms`,
    );
  }
  const passed = results.length - failed.length;
  if (values.json) console.log(JSON.stringify({ cases: results.length, passed, longestStallMs }));
  process.exitCode =
    failed.length > 0 || clientFaults.length > 0 || unreached.length > 0 || results.length === 0 ? 1 : 0;
}

/** A step that the code announces nowhere, or nowhere in these directions, would be one that is never tested. */
function stepsNeverReached(): string[] {
  const steps = new Set(results.flatMap((result) => result.case.step ?? []));
  for (const result of results) if (result.outcome !== 'unreached') steps.delete(result.case.step as never);
  return [...steps];
}

/** One line per step, one column per victim and direction: longest stall, or what happened. */
function table(): string {
  const columns = [...new Set(results.map((result) => columnOf(result.case)))];
  const rows = [...new Set(results.map((result) => result.case.step ?? result.case.obstacle ?? ''))];
  return textTable(
    ['step', ...columns],
    rows.map((row) => [
      row,
      ...columns.map((column) => {
        const found = results.filter(({ case: one }) => (one.step ?? one.obstacle) === row && columnOf(one) === column);
        if (found.some(({ faults }) => faults.length > 0)) return 'FAIL';
        const struck = found.filter(({ outcome }) => outcome !== 'unreached');
        if (struck.length === 0) return '-';
        const stays = struck.filter(({ outcome }) => outcome === 'stayed').length;
        return `${'<'.repeat(stays)}${'>'.repeat(struck.length - stays)} ${Math.max(...struck.map(({ stallMs }) => stallMs)).toFixed(0)}`;
      }),
    ]),
  );
}

function columnOf({ victim }: FaultCase): string {
  return victim ?? 'alone';
}

function matches(pattern: string | undefined, value: string | undefined): boolean {
  return pattern === undefined || new RegExp(pattern).test(value ?? '');
}
