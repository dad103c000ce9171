import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { run } from '../../cli/system/command.js';
import { projectFile } from '../../cli/system/project.js';
import { suite } from '../suite.js';
import { facts } from './policy-fixtures.js';

const POLICY = `policies:
  - name: flees
    processes: [{name: a}]
    when: {loadPerCpu: {above: 2}, for: 10s}
    until: {loadPerCpu: {below: 1}, for: 10s}
    limits: {cooldown: 30s}
`;

const test = suite<{ folder: string }>('homeproxy policy simulate');

test.before.each((world) => {
  world.folder = mkdtempSync(join(tmpdir(), 'hp-simulate-'));
});
test.after.each((world) => rmSync(world.folder, { recursive: true, force: true }));

/** A load that goes up after 10 s and down after 30 s, every 5 s. */
const RECORDS = Array.from({ length: 20 }, (_unused, index) => {
  const at = index * 5000;
  const load1 = at >= 10_000 && at < 30_000 ? 5 : 0.5;
  return facts({ at, hosts: { home: { cpus: 1, load1 }, host1: {} }, processes: [{ pid: 7 }] });
});

interface Printed {
  readonly timeline: readonly { at: number; outcome: string; code?: string; from: string; to?: string }[];
  readonly locations: unknown;
  readonly error?: { readonly code: string; readonly message: string };
}

async function simulate(folder: string, text: string, written: string, ...flags: string[]): Promise<string> {
  const policy = join(folder, 'policies.yaml');
  const from = join(folder, 'metrics.json');
  writeFileSync(policy, written);
  writeFileSync(from, text);
  const command = [projectFile('cli/bin/run.js'), 'policy', 'simulate', policy, '--from', from, ...flags];
  return (await run(process.execPath, command)).stdout;
}

for (const [form, text] of [
  ['a list', JSON.stringify(RECORDS)],
  ['a record on each line', RECORDS.map((record) => `${JSON.stringify(record)}\n`).join('')],
] as const) {
  test(`prints what the policies would have done with ${form}`, async ({ folder }) => {
    const { timeline, locations } = JSON.parse(await simulate(folder, text, POLICY, '--json')) as Printed;
    assert.equal(
      timeline.map(({ at, outcome, code, from, to }) => [at / 1000, code ?? outcome, from, to]),
      [
        [20, 'move', 'home', 'host1'],
        [40, 'cooldown', 'host1', undefined],
        [55, 'return', 'host1', 'home'],
      ],
    );
    assert.equal(locations, { '7': 'home' });
  });
}

test('shows a policy that would go to and fro, and that one with hysteresis does not', async ({ folder }) => {
  // an hour of a load that goes up and down every 20 s
  const restless = Array.from({ length: 720 }, (_unused, index) => {
    const load1 = index % 8 < 4 ? 5 : 0.5;
    return facts({ at: index * 5000, hosts: { home: { cpus: 1, load1 }, host1: {} }, processes: [{ pid: 7 }] });
  });
  const movesOf = async (policy: string): Promise<number> => {
    const printed = await simulate(folder, JSON.stringify(restless), policy, '--json');
    return (JSON.parse(printed) as { moves: number }).moves;
  };
  const hasty = POLICY.replaceAll(', for: 10s', '').replace('cooldown: 30s', 'cooldown: 1s, moves: 1000');
  assert.is(await movesOf(hasty), 180, 'there and back, 90 times');
  assert.is(await movesOf(hasty.replace('above: 2}', 'above: 2}, for: 30s')), 0);
  assert.is(await movesOf(hasty.replace('below: 1}', 'below: 1}, for: 30s')), 1);
  assert.is(await movesOf(hasty.replace('cooldown: 1s', 'cooldown: 10m')), 6);
  assert.is(await movesOf(hasty.replace('moves: 1000', 'moves: 4, per: 1h')), 4);
});

test('for people it is a table, with the reason of each line', async ({ folder }) => {
  const printed = await simulate(folder, JSON.stringify(RECORDS), POLICY);
  assert.match(printed, /1970-01-01T00:00:20Z +flees +7 +a +move +home +host1 +load per CPU of home above 2: 5\n/);
  assert.match(printed, /wait: cooldown/);
  assert.match(printed, /20 records, 2 moves\n$/);
});

test('says which record has a fault, and what it is', async ({ folder }) => {
  const broken = [RECORDS[0], { ...RECORDS[1], at: 'noon' }];
  for (const [text, place] of [
    [JSON.stringify(broken), 'record 2'],
    [broken.map((record) => JSON.stringify(record)).join('\n'), 'line 2'],
  ] as const) {
    try {
      await simulate(folder, text, POLICY);
      assert.unreachable('it took the records');
    } catch (error) {
      const { message, log } = error as { message: string; log: string[] };
      assert.match(message, /exit status 2/);
      assert.match(log.join('\n'), new RegExp(`metrics\\.json: ${place}: .*at`));
    }
  }
});

test.run();
