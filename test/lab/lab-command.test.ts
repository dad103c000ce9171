import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { UserError } from '../../cli/errors.js';
import { Lab } from '../../cli/lab/lab.js';
import { run } from '../../cli/system/command.js';
import { projectFile } from '../../cli/system/project.js';
import { suite } from '../suite.js';
import { bareLab, Command, downAll, homeproxy, labName } from './lab-fixture.js';
import { leftovers, namespacesOf } from './leftovers.js';

const exec = suite('lab exec');
let lab: Lab;
const inNode = (node: string, ...command: string[]): string[] => [
  'lab',
  'exec',
  '--lab',
  lab.name,
  node,
  '--',
  ...command,
];

exec.before(async () => {
  lab = await bareLab('exec', { hosts: 1 });
});
exec.after(downAll);

exec('passes standard streams and the exit status through', async () => {
  const script = 'read -r line; echo "out $line"; echo "err $line" >&2; exit 7';
  assert.equal(await homeproxy(inNode('home', 'sh', '-c', script), 'given\n'), {
    status: 7,
    stdout: 'out given\n',
    stderr: 'err given\n',
  });
});

exec('passes every word after -- as it was written: repeated, empty, like a flag of ours', async () => {
  const words = ['a', 'b', 'a', '', '--json', 'b', '--', '$HOME'];
  const { stdout } = await homeproxy(inNode('home', 'sh', '-c', 'printf "[%s]" "$@"', 'sh', ...words));
  assert.is(stdout, words.map((word) => `[${word}]`).join(''));
});

exec('exits with 128 + n for a command that signal n ended', async () => {
  assert.is((await homeproxy(inNode('home', 'sh', '-c', 'kill -9 $$'))).status, 128 + 9);
});

for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
  exec(`passes ${signal} on to the command`, async () => {
    const script = `trap 'echo had ${signal}; exit 3' ${signal.slice(3)}; echo ready; while :; do sleep 0.02; done`;
    const command = new Command(inNode('home', 'sh', '-c', script));
    await command.printed('ready');
    command.child.kill(signal);
    const { status, stdout } = await command.ended;
    assert.is(stdout, `ready\nhad ${signal}\n`);
    assert.is(status, 3);
  });
}

exec('on a terminal leaves Ctrl-C to the command', async () => {
  const script = 'trap "echo had it; exit 4" INT; echo ready; while :; do sleep 0.02; done';
  // script(1) runs it on a pseudo terminal, which turns the byte 3 on its own input into SIGINT. `exec`: its shell ($SHELL,
  // else sh) is in the foreground group too, and dash, which does not replace itself by its only command, would die of it.
  const words = [process.execPath, projectFile('cli/bin/run.js'), ...inNode('home', 'sh', '-c', script)];
  const line = `exec ${words.map((word) => `'${word}'`).join(' ')}`;
  const terminal = spawn('script', ['--quiet', '--return', '--command', line, '/dev/null'], { stdio: 'pipe' });
  let printed = '';
  terminal.stdout.on('data', (chunk: Buffer) => {
    if (!printed.includes('ready') && `${printed}${chunk}`.includes('ready')) terminal.stdin.write('\x03');
    printed += chunk.toString();
  });
  const status = await new Promise((resolve) => terminal.once('close', resolve));
  assert.match(printed, /ready\r\n.*had it\r\n/s);
  assert.is(status, 4);
});

exec(
  'runs in the session cgroup, with homeproxy and Node.js on PATH and the lab of the caller out of sight',
  async () => {
    const { stdout } = await homeproxy(
      inNode(
        'home',
        'sh',
        '-c',
        'cat /proc/self/cgroup; pwd; command -v homeproxy; command -v node; echo "[$HOMEPROXY_LAB]"',
      ),
    );
    assert.match(stdout, /^0::\/session$\n\/\n\/run\/lab\/bin\/homeproxy\n\/.*\n\[\]$/m);
  },
);

exec('refuses what is not there with exit 3, and says what is', async () => {
  for (const [args, pattern] of [
    [['lab', 'exec', '--lab', lab.name, 'host7', '--', 'true'], /it has client, home, host1/],
    [['lab', 'exec', '--lab', lab.name, 'home', '--detach', '--', 'no-such-command'], /no command no-such-command/],
    [['lab', 'exec', '--lab', `${lab.name}-x`, 'home', '--', 'true'], /is not up/],
  ] as const) {
    const { status, stderr } = await homeproxy(args);
    assert.is(status, 3, stderr);
    assert.match(stderr, pattern);
  }
  assert.is((await homeproxy(['lab', 'exec', '--lab', lab.name, 'home'])).status, 2);
});

exec('--detach prints the pid in the node of a process that stands on its own', async () => {
  const home = lab.node('home');
  const { status, stdout } = await homeproxy([
    'lab',
    'exec',
    '--lab',
    lab.name,
    'home',
    '--detach',
    '--',
    'sleep',
    '4343',
  ]);
  assert.is(status, 0);
  assert.match(stdout, /^\d+\n$/);
  const pid = Number(stdout);
  assert.is(readFileSync(home.path(`/proc/${pid}/cmdline`), 'utf8'), 'sleep\0' + '4343\0');
  const text = (await home.run(['cat', `/proc/${pid}/status`])).stdout;
  assert.match(text, /^PPid:\s+1$/m);
  assert.match(text, /^SigIgn:\s+0+$/m);
  assert.match(text, /^SigBlk:\s+0+$/m);
  assert.match(
    (await home.run(['ps', '-o', 'sid=,pgid=,tty=', String(pid)])).stdout,
    new RegExp(`^\\s*${pid}\\s+${pid}\\s+\\?`),
  );
  const streams = await home.run([
    'sh',
    '-c',
    'cd "/proc/$1/fd" && for fd in *; do echo "$fd $(readlink "$fd")"; done',
    'sh',
    String(pid),
  ]);
  assert.is(streams.stdout, '0 /dev/null\n1 /dev/null\n2 /dev/null\n');
  const machinePid = home.machinePid(pid);
  assert.is(readFileSync(`/proc/${machinePid}/comm`, 'utf8'), 'sleep\n');
});

exec('--detach --json gives {"pid"}', async () => {
  const { stdout } = await homeproxy([
    'lab',
    'exec',
    '--lab',
    lab.name,
    '--detach',
    '--json',
    'home',
    '--',
    'sleep',
    '4344',
  ]);
  assert.equal(Object.keys(JSON.parse(stdout)), ['pid']);
});

exec('may be used by several callers at once', async () => {
  const outcomes = await Promise.all(
    ['client', 'home', 'host1'].map((node) => homeproxy(inNode(node, 'cat', '/etc/hostname'))),
  );
  assert.equal(
    outcomes.map(({ stdout }) => stdout),
    ['client\n', 'home\n', 'host1\n'],
  );
});

exec.run();

const up = suite('lab up and down');
up.after(downAll);

up('print the nodes as JSON, the same for up and status', async () => {
  const name = labName('json');
  const flags = ['--lab', name, '--json'];
  const made = await homeproxy(['lab', 'up', '--no-daemons', '--hosts', '1', ...flags]);
  assert.is(made.status, 0, made.stdout);
  assert.is(made.stderr, '');
  const nodes = (JSON.parse(made.stdout) as { nodes: { name: string; address: string; role: string }[] }).nodes;
  assert.equal(
    nodes.map((node) => [node.name, node.address, node.role]),
    [
      ['client', '10.77.0.1', 'client'],
      ['home', '10.77.0.2', 'home'],
      ['host1', '10.77.0.3', 'host'],
    ],
  );
  assert.equal(JSON.parse((await homeproxy(['lab', 'status', ...flags])).stdout), JSON.parse(made.stdout));
  const again = await homeproxy(['lab', 'up', '--no-daemons', '--hosts', '1', ...flags]);
  assert.is(again.stdout, made.stdout, 'a second up changed the lab');
  const other = await homeproxy(['lab', 'up', '--no-daemons', '--hosts', '2', ...flags]);
  assert.is(other.status, 3);
  assert.is(JSON.parse(other.stdout).error.code, 'LAB_DIFFERS');
  assert.equal(JSON.parse((await homeproxy(['lab', 'down', ...flags])).stdout), { lab: name, removed: true });
  assert.equal(leftovers(name), []);
  assert.equal(JSON.parse((await homeproxy(['lab', 'status', ...flags])).stdout), {
    lab: name,
    state: 'down',
    nodes: [],
  });
});

up('refuse wrong usage with exit 2', async () => {
  for (const args of [
    ['--hosts', '0'],
    ['--hosts', 'many'],
    ['--lab', '../x'],
    ['--attach', 'wire'],
  ]) {
    const { status, stderr } = await homeproxy(['lab', 'up', ...args]);
    assert.is(status, 2, `${args.join(' ')}: ${stderr}`);
  }
});

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  up(`leave nothing when ${signal} comes in the middle of up`, async () => {
    const name = labName(`cut-${signal.toLowerCase()}`);
    const command = new Command(['lab', 'up', '--no-daemons', '--lab', name]);
    await command.printed('namespaces');
    assert.ok(leftovers(name).length > 0, 'it had not begun');
    command.child.kill(signal);
    const { status, stderr } = await command.ended;
    assert.is(status, 130, stderr);
    assert.match(stderr, /interrupted/);
    assert.equal(leftovers(name), []);
  });
}

up('leave nothing when they are aborted at any step', async () => {
  const name = labName('aborted');
  for (const moment of ['before', 'namespaces', 'network and certificates']) {
    const stop = new AbortController();
    const reason = new UserError({ code: 'INTERRUPTED', message: moment });
    if (moment === 'before') stop.abort(reason);
    try {
      const onStep = (step: string): void => {
        if (step === moment) stop.abort(reason);
      };
      await Lab.up({ name, daemons: false, signal: stop.signal, onStep });
      assert.unreachable(`not aborted at ${moment}`);
    } catch (error) {
      assert.ok(error instanceof Error && (error === reason || error.cause === reason), `${error}`);
    }
    assert.equal(leftovers(name), []);
  }
});

up('take down what a killed up left half built, and build over it', async () => {
  const name = labName('killed');
  for (const next of ['down', 'up']) {
    const command = new Command(['lab', 'up', '--no-daemons', '--lab', name]);
    await command.printed('namespaces');
    command.child.kill('SIGKILL');
    await command.ended;
    assert.is((await Lab.status(name)).state, 'broken');
    const remains = leftovers(name);
    if (next === 'up') await Lab.up({ name, daemons: false });
    else await Lab.down(name);
    const left = new Set(leftovers(name).filter((item) => item.startsWith('process')));
    assert.equal(
      remains.filter((item) => left.has(item)),
      [],
    );
  }
  assert.is((await Lab.status(name)).state, 'up');
});

up('agree when several run at once', async () => {
  const name = labName('crowd');
  const flags = ['--no-daemons', '--hosts', '1', '--lab', name, '--json'];
  const made = await Promise.all([1, 2, 3].map(() => homeproxy(['lab', 'up', ...flags])));
  assert.equal(
    made.map(({ status }) => status),
    [0, 0, 0],
  );
  assert.is(new Set(made.map(({ stdout }) => stdout)).size, 1, 'they built different labs');
  const namespaces = (await Lab.open(name)).nodes.flatMap(({ initPid }) => namespacesOf(initPid));
  const gone = await Promise.all([1, 2].map(() => homeproxy(['lab', 'down', '--lab', name, '--json'])));
  assert.equal(gone.map(({ stdout }) => JSON.parse(stdout).removed).sort(), [false, true]);
  assert.equal(leftovers(name, namespaces), []);
});

up('build anew when a node has died', async () => {
  const name = labName('dead-node');
  const first = await Lab.up({ name, daemons: false, hosts: 1 });
  await run('kill', ['-9', String(first.node('host1').initPid)]);
  while (existsSync(`/proc/${first.node('host1').initPid}`)) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.is((await Lab.status(name)).state, 'broken');
  const second = await Lab.up({ name, daemons: false, hosts: 1 });
  assert.is((await second.node('host1').run(['cat', '/etc/hostname'])).stdout, 'host1\n');
  assert.is((await Lab.status(name)).state, 'up');
});

up('work from a checkout below a folder that nodes have for themselves', async () => {
  const name = labName('elsewhere');
  const folder = mkdtempSync(join(tmpdir(), 'homeproxy checkout '));
  try {
    // The mount is seen in a mount namespace of its own only.
    const script = `set -e
      mount --bind "$1" "$2"
      lab() { command=$1; shift; "$node" "$folder/cli/bin/run.js" lab "$command" --lab "$name" "$@"; }
      folder=$2 name=$3 node=$4
      lab up --no-daemons --hosts 1
      lab exec home -- homeproxy --version
      lab exec home --detach -- sleep 5
      lab exec home -- touch "$folder/package.json" 2>&1 && exit 9
      lab exec home -- touch "$folder.mine"
      lab down`;
    const args = [
      '--mount',
      'sh',
      '-c',
      script,
      'sh',
      projectFile('').replace(/\/$/, ''),
      folder,
      name,
      process.execPath,
    ];
    const { stdout } = await run('unshare', args);
    assert.match(stdout, /homeproxy\/0\.1\.0/);
    assert.match(stdout, /Read-only file system/);
    assert.not(existsSync(`${folder}.mine`));
  } finally {
    rmSync(folder, { recursive: true });
  }
  assert.equal(leftovers(name), []);
});

up.run();
