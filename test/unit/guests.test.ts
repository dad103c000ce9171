/** Which processes of other nodes a node takes: `guests.accept`. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import * as fc from 'fast-check';
import * as assert from 'uvu/assert';
import { parseConfig } from '../../cli/config/parse.js';
import type { UserError } from '../../cli/errors.js';
import { Guests } from '../../cli/migration/guests.js';
import type { ProcessDescription } from '../../cli/process/description.js';
import { suite } from '../suite.js';

const test = suite('guests');
const started: ChildProcess[] = [];

test.after(() => {
  for (const child of started) child.kill('SIGKILL');
});

function of(...users: number[]): ProcessDescription {
  return { homePid: 7, users } as unknown as ProcessDescription;
}

const codes = (guests: Guests, home: string, ...users: number[]): string[] =>
  guests.verdicts(home, of(...users)).map(({ code, outcome }) => `${outcome} ${code}`);

/** A process of other users than ours, as it runs when this resolves. */
async function start(...privileges: string[]): Promise<number> {
  const child = spawn('setpriv', [...privileges, 'sh', '-c', 'echo; exec sleep 60'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  started.push(child);
  await once(child.stdout as NodeJS.ReadableStream, 'data');
  return child.pid ?? 0;
}

function config(guests: string): string {
  return `node: a\nnodes: [{name: a, address: 10.0.0.1}, {name: b, address: 10.0.0.2}]\nguests: ${guests}\n`;
}

function problems(guests: string): string {
  try {
    parseConfig(config(guests), 'homeproxy.yaml');
  } catch (error) {
    return (error as UserError).message;
  }
  return '';
}

test('without rules everybody comes, with an empty list nobody', async () => {
  assert.equal(codes(await Guests.resolve('b', [{}]), 'a', 0), []);
  assert.equal(codes(await Guests.resolve('b', []), 'a', 1000), ['refused GUEST_REFUSED']);
});

test('a rule fits its nodes only', async () => {
  const guests = await Guests.resolve('b', [{ from: ['a'] }]);
  assert.equal(codes(guests, 'a', 0), []);
  assert.equal(codes(guests, 'c', 0), ['refused GUEST_REFUSED']);
});

test('every user that a process is or can become must be in one rule: names, numbers, ranges', async () => {
  const guests = await Guests.resolve('b', [{ users: ['daemon', '2000-2999'] }, { users: ['0'] }]);
  assert.equal(codes(guests, 'a', 1, 2000, 2999), []);
  assert.equal(codes(guests, 'a', 0), []);
  assert.equal(codes(guests, 'a', 0, 2000), ['refused GUEST_REFUSED'], 'two rules are not added up');
  assert.equal(codes(guests, 'a', 3000), ['refused GUEST_REFUSED']);
  assert.equal(codes(guests, 'a'), ['refused GUEST_REFUSED'], 'a home that says nothing of it');
});

test('a user whom this machine does not have: the daemon does not start', async () => {
  try {
    await Guests.resolve('b', [{ users: ['nobody-of-that-name'] }]);
    assert.unreachable();
  } catch (error) {
    assert.equal([(error as UserError).code, (error as UserError).exitStatus], ['USER_UNKNOWN', 2]);
  }
});

test('whoever adds users to a rule lets no fewer in, and whoever adds tasks to a process no more', async () => {
  const uid = fc.integer({ min: 0, max: 20 });
  const uids = fc.array(uid, { minLength: 1, maxLength: 5 });
  await fc.assert(
    fc.asyncProperty(uids, uid, uids, uid, async (rule, more, users, other) => {
      const narrow = await Guests.resolve('b', [{ users: rule.map(String) }]);
      const wide = await Guests.resolve('b', [{ users: [...rule, more].map(String) }]);
      const [narrowly, widely] = [narrow, wide].map((guests) => codes(guests, 'a', ...users).length) as [
        number,
        number,
      ];
      assert.ok(widely <= narrowly);
      assert.ok(codes(narrow, 'a', ...users, other).length >= narrowly);
    }),
  );
});

test('what the home said is not believed: the tasks are asked, and their capabilities count', async () => {
  const guests = await Guests.resolve('b', [{ users: ['65530'] }]);
  const user = ['--reuid', '65530', '--regid', '65530', '--clear-groups'];
  const plain = await start(...user);
  guests.require('a', [plain]);
  const mighty = await start(...user, '--inh-caps', '+net_raw', '--ambient-caps', '+net_raw');
  for (const pids of [[mighty], [plain, mighty], [plain, process.pid], []]) {
    assert.throws(
      () => guests.require('a', pids),
      (error: UserError) => error.code === 'GUEST_REFUSED',
      pids.join(' '),
    );
  }
});

test('mistakes in the file are named with their places', () => {
  assert.is(problems('{}'), '');
  assert.is(problems('{accept: []}'), '');
  assert.is(problems('{accept: [{from: [b], users: [redis, 0, 10-20]}]}'), '');
  assert.match(problems('{accept: [{from: [c]}]}'), /homeproxy\.yaml:3:\d+.*"c" is not one of the nodes/s);
  assert.match(problems('{accept: [{users: []}]}'), /homeproxy\.yaml:3:\d+.*at least one user/s);
  assert.match(problems('{accept: [{users: [20-10]}]}'), /homeproxy\.yaml:3:\d+.*first of a range/s);
  assert.match(problems('{accept: [{users: [4294967295]}]}'), /homeproxy\.yaml:3:\d+.*at most/s);
  assert.match(problems('{accept: [{users: ["a b"]}]}'), /homeproxy\.yaml:3:\d+.*name or the number/s);
  assert.match(problems('{accept: [{user: [0]}]}'), /homeproxy\.yaml:3:\d+/s);
});

test.run();
