import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import * as assert from 'uvu/assert';
import { UserError } from '../../cli/errors.js';
import { type ProcessFacts, processFacts } from '../../cli/policy/facts.js';
import type { Move } from '../../cli/policy/history.js';
import { HostBook } from '../../cli/policy/host-book.js';
import type { How } from '../../cli/policy/model.js';
import { PolicySource } from '../../cli/policy/policy-source.js';
import { PolicyRunner } from '../../cli/policy/runner.js';
import { suite } from '../suite.js';

const POLICY = (cooldown: string) => `every: 500ms
policies:
  - name: leaves
    processes: [{name: a}]
    when: {draining: false}
    until: {draining: true}
    how: {maxFreeze: 2s, mode: stop-and-copy, files: carry, carry: [/srv]}
    limits: {cooldown: ${cooldown}}
  - name: others
    processes: [{name: b}]
    when: {draining: true}
`;

/** A daemon's surroundings, with one process and a coordinator that does what the test says. */
class World {
  readonly folder = mkdtempSync(join(tmpdir(), 'hp-runner-'));
  readonly lines: Record<string, unknown>[] = [];
  readonly asked: {
    pid: number;
    to: string;
    policy: string;
    migration: string;
    how: How;
    done(error?: Error): void;
  }[] = [];
  readonly process: ProcessFacts = processFacts.parse({ pid: 7, name: 'a', location: 'home' });
  readonly source: PolicySource;
  readonly runner: PolicyRunner;
  private readonly waiting = new Set<() => void>();

  constructor(text: string, past: readonly Move[] = []) {
    const file = join(this.folder, 'policies.yaml');
    writeFileSync(file, text);
    const write = (line: string): void => {
      this.lines.push(JSON.parse(line) as Record<string, unknown>);
      this.wake();
    };
    const logger = pino({}, { write });
    const calm = async () => ({ draining: false, disks: {} });
    this.source = new PolicySource(file, [{ name: 'home' }, { name: 'host1' }], logger);
    this.runner = new PolicyRunner({
      home: 'home',
      source: this.source,
      book: new HostBook(
        new Map([
          ['home', calm],
          ['host1', calm],
        ]),
      ),
      processes: { read: async () => [this.process], find: (pid) => (pid === 7 ? this.process : undefined) },
      past,
      logger,
      migrate: (pid, to, { policy, migration, ...how }) =>
        new Promise<void>((resolve, reject) => {
          const done = (error?: Error): void => (error === undefined ? resolve() : reject(error));
          this.asked.push({ pid, to, policy, migration, how, done });
          this.wake();
        }),
    });
  }

  /** Waits until something is so; looked at when something was logged or asked for. */
  async until(so: () => boolean): Promise<void> {
    while (!so()) await new Promise<void>((resolve) => this.waiting.add(resolve));
  }

  async close(): Promise<void> {
    await this.runner.close();
    rmSync(this.folder, { recursive: true });
  }

  private wake(): void {
    for (const resolve of this.waiting) resolve();
    this.waiting.clear();
  }
}

const test = suite('the policies of a daemon');

test('ask the coordinator once, say so in the log, and can be asked why', async () => {
  const world = new World(POLICY('1h'));
  world.runner.start();
  await world.until(() => world.asked.length > 0);
  const [asked] = world.asked;
  assert.equal([asked?.pid, asked?.to, asked?.policy], [7, 'host1', 'leaves']);
  assert.equal(asked?.how, { maxFreezeMs: 2000, copyAhead: false, carry: { paths: ['/srv'] } });
  const line = world.lines.find(({ msg }) => msg === 'a policy moves a process');
  assert.equal(
    [line?.migration, line?.policy, line?.pid, line?.why],
    [asked?.migration, 'leaves', 7, 'home is not being drained: not draining'],
  );
  const during = await world.runner.explain(7);
  assert.equal(
    during.policies.map(({ policy, outcome, code }) => [policy, outcome, code]),
    [
      ['leaves', 'wait', 'moving'],
      ['others', 'not-chosen', undefined],
    ],
  );
  asked?.done();
  Object.assign(world.process, { location: 'host1' });
  for (let state = 'moving'; state !== 'stay'; state = (await world.runner.explain(7)).policies[0]?.outcome ?? '');
  const after = await world.runner.explain(7);
  assert.match(after.policies[0]?.why ?? '', /^`until` does not hold: home is being drained: not draining$/);
  assert.equal(after.decisions.map(({ outcome }) => outcome).slice(0, 1), ['move']);
  assert.ok(after.decisions.some(({ outcome, to }) => outcome === 'moved' && to === 'host1'));
  assert.equal(
    [...world.runner.counts],
    [
      ['leaves\nmove', 1],
      ['leaves\nmoved', 1],
    ],
  );
  await world.close();
  assert.is(world.asked.length, 1);
});

test('log a failure with the names of the policy and the migration, and back off', async () => {
  const world = new World(POLICY('1s'));
  world.runner.start();
  await world.until(() => world.asked.length > 0);
  world.asked[0]?.done(new UserError({ code: 'REFUSED', message: 'it has a terminal' }));
  await world.until(() =>
    world.lines.some(({ policy, code, level }) => level === 50 && policy === 'leaves' && code === 'REFUSED'),
  );
  const failed = world.lines.find(({ level }) => level === 50);
  assert.ok(world.asked[0]?.migration.startsWith('m-'));
  assert.is(failed?.migration, world.asked[0]?.migration);
  const [first] = (await world.runner.explain(7)).policies;
  assert.equal([first?.outcome, first?.code], ['wait', 'back-off']);
  assert.match(first?.why ?? '', /^tried again in .*, after: it has a terminal$/);
  await world.close();
  assert.is(world.asked.length, 1);
});

test('know what the journal tells of the time before the daemon started', async () => {
  const at = Date.now() - 1000;
  const past: Move = {
    pid: 7,
    policy: undefined,
    direction: 'back',
    from: 'host1',
    to: 'home',
    at,
    endedAt: at,
    outcome: 'moved',
  };
  const world = new World(POLICY('1h'), [past]);
  world.runner.start();
  await world.until(() => world.lines.some(({ msg }) => msg === 'policies loaded'));
  const [first] = (await world.runner.explain(7)).policies;
  assert.equal([first?.outcome, first?.code], ['wait', 'cooldown']);
  await world.close();
});

test('hear of migrations that others have begun', async () => {
  const world = new World(POLICY('1h').replace('draining: false', 'draining: true'));
  world.runner.start();
  await world.until(() => world.lines.some(({ msg }) => msg === 'policies loaded'));
  assert.is((await world.runner.explain(7)).policies[0]?.outcome, 'stay');
  const end = { outcome: 'committed', migration: 'm-1', pid: 7, phases: {}, bytesMoved: 0 } as const;
  world.runner.ended({ ...end, direction: 'away', from: 'home', to: 'host1', policy: 'leaves' });
  Object.assign(world.process, { location: 'host1' });
  assert.match((await world.runner.explain(7)).policies[0]?.why ?? '', /^`until` does not hold/);
  world.runner.ended({ ...end, direction: 'back', from: 'host1', to: 'home' });
  world.runner.ended({ ...end, direction: 'away', from: 'home', to: 'host1' });
  assert.match((await world.runner.explain(7)).policies[0]?.why ?? '', /this policy did not send it/);
  await world.close();
});

test('say how a process would move, where that is not as usual', async () => {
  const world = new World(POLICY('1h'));
  await world.source.refresh(); // no tick: nothing moves
  const [first] = (await world.runner.explain(7)).policies;
  assert.equal(
    [first?.outcome, first?.how],
    ['move', 'its memory in the freeze, with its files /srv, frozen for 2s at most'],
  );
  await world.close();
});

test('say that there is no such process', async () => {
  const world = new World(POLICY('1h'));
  try {
    await world.runner.explain(8);
    assert.unreachable();
  } catch (error) {
    assert.is((error as UserError).code, 'NO_SUCH_PROCESS');
  }
  await world.close();
});

test.run();
