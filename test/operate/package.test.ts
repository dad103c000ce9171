// limit: 600 s
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { Lab } from '../../cli/lab/lab.js';
import { projectFile } from '../../cli/system/project.js';
import { processesOf } from '../lab/copies.js';
import { downAll, labName } from '../lab/lab-fixture.js';
import { suite } from '../suite.js';
import { ENVIRONMENT, installGlobally } from './npm.js';

interface World {
  folder: string;
  archive: string;
  prefix: string;
  contents: string[];
}

const test = suite<World>('the package, installed');

function run(command: string, args: readonly string[], env: NodeJS.ProcessEnv = ENVIRONMENT) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8', cwd: '/', env });
  if (error !== undefined) throw error;
  return { status, stdout, stderr };
}

function succeed(command: string, ...args: string[]): string {
  const { status, stdout, stderr } = run(command, args);
  assert.is(status, 0, `${command} ${args.join(' ')}\n${stdout}${stderr}`);
  return stdout;
}

function installed({ prefix }: World): string {
  return join(prefix, 'lib/node_modules/homeproxy');
}

type Locked = Record<string, { version: string; dev?: boolean; devOptional?: boolean; optional?: boolean }>;

function versionIn(folder: string): string | undefined {
  const file = join(folder, 'package.json');
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version : undefined;
}

test.before(async (world) => {
  world.folder = mkdtempSync(join(tmpdir(), 'homeproxy-package-'));
  world.prefix = join(world.folder, 'prefix');
  const [packed] = JSON.parse(
    succeed('npm', 'pack', projectFile(''), '--ignore-scripts', '--json', '--pack-destination', world.folder),
  ) as [{ filename: string; files: { path: string }[] }];
  world.archive = join(world.folder, packed.filename);
  world.contents = packed.files.map(({ path }) => path);
  await installGlobally(world.archive, world.prefix);
});
test.after(async ({ folder }) => {
  await downAll();
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
});

test('has the programs and what they need, and neither tests nor sources of the BPF programs', ({ contents }) => {
  const tops = [...new Set(contents.map((path) => path.split('/').slice(0, 2).join('/')))].sort();
  assert.equal(
    tops.filter((top) => !top.startsWith('config/')),
    [
      'LICENSE',
      'README.md',
      'addon/README.md',
      'addon/binding.gyp',
      'addon/src',
      'bpf/abi.h',
      'bpf/build',
      'cli/bin',
      'dist/addon',
      'dist/cli',
      'npm-shrinkwrap.json',
      'oclif.manifest.json',
      'package.json',
    ],
  );
  for (const object of ['homeproxy', 'mappings']) assert.ok(contents.includes(`bpf/build/${object}.bpf.o`));
  assert.ok(contents.includes('config/systemd/homeproxy.service'));
});

test('has brought exactly the versions of other packages that were tested, and none that only tests need', (world) => {
  const root = installed(world);
  const lock = JSON.parse(readFileSync(projectFile('npm-shrinkwrap.json'), 'utf8')) as { packages: Locked };
  const { '': _own, ...asked } = lock.packages;
  const wrong = Object.entries(asked).filter(([path, { version, dev, devOptional, optional }]) => {
    const found = versionIn(join(root, path));
    return found === undefined ? !(dev || devOptional || optional) : dev || found !== version;
  });
  assert.equal(wrong, []);
  assert.ok(Object.keys(asked).some((path) => versionIn(join(root, path)) !== undefined));
  assert.is(existsSync(projectFile('package-lock.json')), false, 'one lock file: npm would read npm-shrinkwrap.json');
});

test('has compiled its addon, and runs without the checkout', (world) => {
  const root = installed(world);
  assert.ok(existsSync(join(root, 'addon/build/Release/homeproxy.node')));
  assert.is(realpathSync(join(world.prefix, 'bin/homeproxy')), realpathSync(join(root, 'cli/bin/run.js')));
  const { version } = JSON.parse(readFileSync(projectFile('package.json'), 'utf8')) as { version: string };
  assert.match(succeed(join(world.prefix, 'bin/homeproxy'), '--version'), `homeproxy/${version}`);
  assert.match(readFileSync(join(world.prefix, 'share/man/man8/homeproxy.8'), 'utf8'), '.TH HOMEPROXY 8');
});

test('has a manual page that man shows without a complaint, as it would of one with mistakes', (world) => {
  const show = (page: string) => run('man', ['--warnings', '--local-file', page], { ...ENVIRONMENT, MANWIDTH: '120' });
  const { status, stdout, stderr } = show(join(world.prefix, 'share/man/man8/homeproxy.8'));
  assert.equal([status, stderr], [0, '']);
  for (const words of ['homeproxy - move a running Linux process', 'migrate PID HOST', 'setup', 'EXIT STATUS']) {
    assert.match(stdout, words);
  }
  const wrong = join(world.folder, 'wrong.8');
  writeFileSync(wrong, '.TH WRONG 8\n.SH NAME\nwrong\n.NOTHING\n');
  assert.match(show(wrong).stderr, /NOTHING/);
});

test('moves a process in a lab of its own, and back', async (world) => {
  const lab = labName('package');
  const homeproxy = (...args: string[]): string => succeed(join(world.prefix, 'bin/homeproxy'), ...args);
  const within = (node: string, ...command: string[]): string =>
    homeproxy('lab', 'exec', '--lab', lab, node, '--', ...command);
  homeproxy('lab', 'up', '--hosts', '1', '--lab', lab);
  const daemons = processesOf(await Lab.open(lab)).filter(({ commandLine }) =>
    commandLine.endsWith('cli/bin/run.js up'),
  );
  assert.is(daemons.length, 2);
  assert.ok(daemons.every(({ commandLine }) => commandLine.includes(installed(world))));
  const pid = homeproxy(
    'lab',
    'exec',
    '--lab',
    lab,
    '--detach',
    'home',
    '--',
    'python3',
    '-m',
    'http.server',
    '8000',
  ).trim();
  within('home', 'homeproxy', 'migrate', pid, 'host1');
  const [row] = (JSON.parse(within('home', 'homeproxy', 'ps', '--json')) as { processes: { location: string }[] })
    .processes;
  assert.is(row?.location, 'host1');
  within('home', 'homeproxy', 'recall', pid);
  homeproxy('lab', 'down', '--lab', lab);
});

test('says what the machine lacks when its addon cannot be compiled', (world) => {
  const { status, stderr } = run(join(installed(world), 'config/setup/install.sh'), [], {
    PATH: pathWithout(world, 'g++'),
  });
  assert.is(status, 1);
  assert.match(stderr, /it lacks: g\+\+\n/);
  assert.match(stderr, /apt-get install g\+\+ make/);
});

test('is gone when it is uninstalled', (world) => {
  succeed('npm', 'uninstall', '--global', '--prefix', world.prefix, 'homeproxy');
  assert.equal(filesBelow(world.prefix), []);
});

/** A PATH with every program that a shell script needs but one. */
function pathWithout({ folder }: World, missing: string): string {
  const programs = join(folder, `without-${missing}`);
  succeed('mkdir', programs);
  for (const name of ['bash', 'env', 'dirname', 'make', 'pkg-config', 'python3', 'node', 'mktemp', 'rm', 'cat']) {
    succeed('ln', '-s', succeed('sh', '-c', 'command -v "$1"', 'sh', name).trim(), join(programs, name));
  }
  return programs;
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map(({ name }) => name);
}

test.run();
