// limit: 900 s
/** Types README's quick start, line by line, on machines of a lab. */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { run } from '../../cli/system/command.js';
import { packageVersion, projectFile } from '../../cli/system/project.js';
import { bareLab, downAll } from '../lab/lab-fixture.js';
import { NodeCommand } from '../lab/node-command.js';
import { suite } from '../suite.js';
import { bootFreshMachine, SYSTEM_PATH, searchPath } from './machine.js';
import { ENVIRONMENT, installGlobally, pack } from './npm.js';
import { type Place, quickStart } from './readme.js';
import { Terminal } from './terminal.js';
import { added, type Traces, tracesOn } from './traces.js';

/** Lines that go on while the next ones are typed elsewhere, and what they print when it is time for those. */
const GO_ON = [
  { line: /^homeproxy ca invite /, until: /waiting for / },
  { line: /^curl .*--rate /, until: /^200, new connections: 0$/m },
];
/** What is not done exactly as it is typed. */
const INSTEAD = [
  {
    line: /^scp (\S+) root@(\S+):$/,
    why: 'the machines of a lab run no sshd: the file is copied to the same place',
    act: (file = '', address = '') => {
      const target = [...machines.values()].find((candidate) => candidate.address === address);
      if (target === undefined) throw new Error(`no machine has the address ${address}`);
      copyFileSync(projectFile(file), target.path(`/root/${file}`));
    },
  },
];
/** What a reader puts in, and where it is to be read. */
const FILLED_IN = [{ blank: '<word>', from: 'home', shown: /homeproxy node join (\S+)/ }];
/** What README promises about lines; each must be there. */
const PROMISES: { line: RegExp; holds: () => Promise<void> }[] = [
  { line: /^python3 -m http.server /, holds: listens }, // nobody gets to the third machine before
  { line: /^homeproxy migrate /, holds: () => servedFrom('host1') },
  { line: /^homeproxy recall /, holds: () => servedFrom('home') },
];
const MACHINES: Readonly<Record<Exclude<Place, 'in the checkout'>, readonly string[]>> = {
  'on both': ['home', 'host1'],
  'on home': ['home'],
  'on host1': ['host1'],
  'on a third machine': ['client'],
};

const test = suite('the quick start in README');
const machines = new Map<string, LabNode>();
const terminals = new Map<string, Terminal>();
const untouched = new Map<string, Traces>();
/** Where a line goes on. */
const busy = new Set<string>();
const typed = new Set<string>();
let folder: string | undefined;
let stoppedAt: string | undefined;

test.before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'homeproxy-quick-start-'));
  const cache = await npmCache(folder);
  const lab = await bareLab('quick-start', { hosts: 1 });
  machines.set('client', lab.node('client'));
  for (const name of MACHINES['on both']) {
    const machine = await bootFreshMachine(lab, name, cache);
    machines.set(name, machine);
    terminals.set(name, Terminal.on(machine, searchPath()));
    await terminal(name).prompt();
    untouched.set(name, await tracesOn(machine));
  }
  terminals.set('client', Terminal.on(lab.node('client'), SYSTEM_PATH));
  await terminal('client').prompt();
});
test.after(async () => {
  await downAll();
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  rmSync(projectFile(`homeproxy-${packageVersion()}.tgz`), { force: true });
});

/** Installs the package once, on this machine, so that npm has fetched what it needs. */
async function npmCache(scratch: string): Promise<string> {
  const cache = join(scratch, 'cache');
  const archive = await pack(scratch);
  await installGlobally(archive, join(scratch, 'prefix'), ['--ignore-scripts', '--cache', cache]);
  return cache;
}

function machine(name: string): LabNode {
  const found = machines.get(name);
  if (found === undefined) throw new Error(`there is no machine ${name}`);
  return found;
}

function terminal(name: string): Terminal {
  const found = terminals.get(name);
  if (found === undefined) throw new Error(`there is no terminal on ${name}`);
  return found;
}

/** Each block is a test; after a failure no other is typed, as a reader would stop. */
for (const { place, lines } of quickStart()) {
  test(`${place}: ${lines[0]?.split('\n', 1)[0]}`, async () => {
    assert.is(stoppedAt, undefined, 'an earlier line has failed');
    for (const line of lines) {
      stoppedAt = `${place}: ${line}`;
      try {
        await typeLine(place, line);
        for (const { holds } of PROMISES.filter((promise) => promise.line.test(line))) await holds();
      } catch (error) {
        throw new Error(`README's quick start, ${place}: ${line}\n${(error as Error).message}`);
      }
      typed.add(line);
      stoppedAt = undefined;
    }
  });
}

async function typeLine(place: Place, line: string): Promise<void> {
  for (const { line: known, act } of INSTEAD) {
    const match = known.exec(line);
    if (match !== null) return act(...match.slice(1));
  }
  if (place === 'in the checkout') {
    await run('bash', ['-c', line], { cwd: projectFile(''), env: ENVIRONMENT, timeoutMs: 240_000 });
  } else {
    await Promise.all(MACHINES[place].map((machine) => typeAt(machine, line)));
  }
}

async function typeAt(machine: string, line: string): Promise<void> {
  const screen = terminal(machine);
  if (busy.delete(machine)) await succeeded(machine); // what went on is over, now that the next line is typed here
  screen.type(filledIn(line));
  const goesOn = GO_ON.find((candidate) => candidate.line.test(line));
  if (goesOn === undefined) return await succeeded(machine);
  await screen.printed(goesOn.until);
  busy.add(machine);
}

async function succeeded(machine: string): Promise<void> {
  const { status, output } = await terminal(machine).prompt();
  assert.is(status, 0, `exit status ${status} on ${machine}, which shows:\n${output}`);
}

function filledIn(line: string): string {
  return FILLED_IN.reduce((text, { blank, from, shown }) => {
    if (!text.includes(blank)) return text;
    const [, value] = shown.exec(terminal(from).output) ?? [];
    if (value === undefined) throw new Error(`${from} shows nothing for ${blank}:\n${terminal(from).output}`);
    return text.replaceAll(blank, value);
  }, line);
}

async function listens(): Promise<void> {
  const socket = async () => (await machine('home').run(['ss', '-Hltn', 'sport = 8000'])).stdout;
  for (const deadline = Date.now() + 30_000; (await socket()) === ''; await sleep(50)) {
    if (Date.now() > deadline) throw new Error('nothing listens on port 8000');
  }
}

/** The web server is a process of that machine and of no other, and goes on answering on its one connection. */
async function servedFrom(place: string): Promise<void> {
  for (const name of MACHINES['on both']) {
    const server = new NodeCommand(machine(name), ['pgrep', '--full', 'http.server 8000']);
    assert.is((await server.ended).stdout !== '', name === place, `${name} runs it`);
  }
  const replies = terminal('client').output.trimEnd().split('\n').length;
  const [shown = ''] = await terminal('client').printed(new RegExp(`^(?:.*\n){${replies + 3}}`));
  const [first, ...others] = shown.trimEnd().split('\n');
  assert.is(first, '200, new connections: 1');
  assert.equal(new Set(others), new Set(['200, new connections: 0']));
}

test('does what it promises', () => {
  for (const { line } of [...PROMISES, ...GO_ON]) {
    assert.ok(
      [...typed].some((candidate) => line.test(candidate)),
      `README's quick start has no line ${line}`,
    );
  }
});

test('leaves nothing, neither on home nor on the host', async () => {
  assert.is(stoppedAt, undefined, 'an earlier line has failed');
  const left = MACHINES['on both'].map(async (name) => {
    const found = added(untouched.get(name) ?? new Map(), await tracesOn(machine(name)));
    return found.map((trace) => `${name}, ${trace}`);
  });
  assert.equal((await Promise.all(left)).flat().slice(0, 40), []);
});

test.run();
