import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import * as assert from 'uvu/assert';
import { PolicySource } from '../../cli/policy/policy-source.js';
import { suite } from '../suite.js';

const good = (name: string) => `policies: [{name: ${name}, processes: [{name: a}], when: {draining: true}}]\n`;

interface World {
  folder: string;
  file: string;
  lines: Record<string, unknown>[];
  source: PolicySource;
}
const test = suite<World>('a policy file that changes');

test.before.each((world) => {
  world.folder = mkdtempSync(join(tmpdir(), 'hp-policies-'));
  world.file = join(world.folder, 'policies.yaml');
  world.lines = [];
  const logger = pino({}, { write: (line: string) => void world.lines.push(JSON.parse(line)) });
  world.source = new PolicySource(world.file, [{ name: 'home' }, { name: 'host1' }], logger);
});
test.after.each(({ folder }) => rmSync(folder, { recursive: true, force: true }));

const names = ({ source }: World) => source.policies.policies.map(({ name }) => name);

test('is taken up, also when it is replaced by another file', async (world) => {
  writeFileSync(world.file, good('first'));
  assert.is(await world.source.refresh(), true);
  assert.is(await world.source.refresh(), false);
  assert.equal(names(world), ['first']);
  writeFileSync(`${world.file}.new`, good('other'));
  renameSync(`${world.file}.new`, world.file);
  assert.is(await world.source.refresh(), true);
  assert.equal(names(world), ['other']);
});

test('with a fault it changes nothing, and the log says once where the fault is', async (world) => {
  writeFileSync(world.file, good('first'));
  await world.source.refresh();
  writeFileSync(world.file, 'policies:\n  - name: no\n');
  assert.is(await world.source.refresh(), false);
  assert.is(await world.source.refresh(), false);
  assert.equal(names(world), ['first']);
  const errors = world.lines.filter(({ level }) => level === 50);
  assert.is(errors.length, 1);
  assert.equal(errors[0]?.problems, [
    `${world.file}:2:5: policies[0].processes: is missing`,
    `${world.file}:2:5: policies[0].when: is missing`,
  ]);
  assert.equal(errors[0]?.kept, ['first']);
  assert.match(world.source.problem ?? '', /processes: is missing/);
  writeFileSync(world.file, good('mended'));
  assert.is(await world.source.refresh(), true);
  assert.is(world.source.problem, undefined);
});

test('when it is gone the policies stay, and an empty list ends them', async (world) => {
  assert.is(await world.source.refresh(), false);
  assert.equal(names(world), []);
  writeFileSync(world.file, good('first'));
  await world.source.refresh();
  rmSync(world.file);
  assert.is(await world.source.refresh(), false);
  assert.equal(names(world), ['first']);
  writeFileSync(world.file, 'policies: []\n');
  assert.is(await world.source.refresh(), true);
  assert.equal(names(world), []);
});

test('names of nodes must be those of the configuration', async (world) => {
  writeFileSync(world.file, good('p').replace('when:', 'where: {among: [host9]}, when:'));
  assert.is(await world.source.refresh(), false);
  assert.match(world.source.problem ?? '', /"host9" is not one of the nodes: home, host1/);
});

test('names of processes are patterns of bounded cost, whatever the file', async (world) => {
  writeFileSync(world.file, `policies: ${'['.repeat(20_000)}\n`);
  assert.is(await world.source.refresh(), false);
});

test.run();
