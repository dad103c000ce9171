import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { ExternalError } from '../../cli/errors.js';
import { Lab } from '../../cli/lab/lab.js';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { projectFile } from '../../cli/system/project.js';
import { suite } from '../suite.js';
import { bareLab, downAll } from './lab-fixture.js';
import { leftovers, namespacesOf } from './leftovers.js';

interface Mount {
  readonly device: string;
  readonly path: string;
  readonly writable: boolean;
  readonly type: string;
}

function mounts(mountinfo: string): Mount[] {
  return mountinfo
    .trim()
    .split('\n')
    .map((line) => {
      const [mount = '', source = ''] = line.split(' - ');
      const fields = mount.split(' ');
      const writable = fields[5]?.split(',').includes('rw') === true;
      return { device: fields[2] ?? '', path: fields[4] ?? '', writable, type: source.split(' ')[0] ?? '' };
    });
}

async function mountsOf(node: LabNode): Promise<Mount[]> {
  return mounts((await node.run(['cat', '/proc/self/mountinfo'])).stdout);
}

async function exists(node: LabNode, path: string): Promise<boolean> {
  try {
    await node.run(['test', '-e', path]);
    return true;
  } catch (error) {
    if (error instanceof ExternalError) return false;
    throw error;
  }
}

const test = suite('two nodes of a lab');
let lab: Lab;

test.before(async () => {
  lab = await bareLab('isolation');
});
test.after(downAll);

test('see nothing that another one writes, wherever it can write; nor does the machine', async () => {
  for (const writer of lab.nodes) {
    const places = new Set((await mountsOf(writer)).filter(({ writable }) => writable).map(({ path }) => path));
    const written: string[] = [];
    for (const place of places) {
      const probe = join(place, `probe-${writer.name}-${process.pid}`);
      try {
        await writer.run(['mkdir', probe]);
        written.push(probe);
      } catch (error) {
        if (!(error instanceof ExternalError)) throw error; // /proc, /sys and the like take no folders
      }
    }
    const taken = written.map((probe) => probe.slice(0, probe.lastIndexOf('/')));
    for (const place of ['/run', '/tmp', '/var', '/etc', '/root', '/home', '/dev', '/dev/shm', '/sys/fs/bpf']) {
      assert.ok(taken.includes(place), `${writer.name} cannot write to ${place}: ${taken.join(' ')}`);
    }
    for (const probe of written) {
      assert.not(existsSync(probe), `the machine sees ${probe}`);
      for (const reader of lab.nodes) {
        if (reader !== writer) assert.not(await exists(reader, probe), `${reader.name} sees ${probe}`);
      }
    }
  }
});

test('share no writable file system, not even one they could not make a folder in', async () => {
  const owners = new Map<string, string>();
  for (const mount of mounts(readFileSync('/proc/self/mountinfo', 'utf8'))) owners.set(mount.device, 'the machine');
  for (const node of lab.nodes) {
    const own = (await mountsOf(node)).filter(({ writable, type }) => writable && type !== 'cgroup2');
    for (const { device, path } of own) assert.is(owners.get(device), undefined, `${path} of ${node.name}`);
    for (const { device } of own) owners.set(device, node.name);
  }
});

test('see their own part of the cgroup tree only', async () => {
  const [home, host] = [lab.node('home'), lab.node('host1')];
  await home.run(['mkdir', '/sys/fs/cgroup/probe']);
  assert.not(await exists(host, '/sys/fs/cgroup/probe'));
  const { stdout } = await host.run(['ls', '/sys/fs/cgroup']);
  assert.equal(
    stdout
      .split('\n')
      .filter((name) => name !== '' && !/^(cgroup|cpu|io|memory|pids|irq|misc|hugetlb|rdma|cpuset|dmem)\./.test(name)),
    ['daemon', 'init', `probe-host1-${process.pid}`, 'session'],
  );
});

test('see their own processes only', async () => {
  const mark = `4242.${process.pid}`;
  const inside = await lab.node('home').detach(['sleep', mark]);
  const show = ['sh', '-c', 'cat /proc/[0-9]*/cmdline | tr "\\0" " "'];
  for (const node of lab.nodes) {
    const { stdout } = await node.run(show);
    assert.is(stdout.includes(`sleep ${mark}`), node.name === 'home', `${node.name}: ${stdout}`);
    assert.ok(stdout.includes('catatonit -P'));
  }
  assert.match(readFileSync(lab.node('home').path(`/proc/${inside}/comm`), 'utf8'), /^sleep$/m);
});

test('see their own mounts, names and interfaces only', async () => {
  const [home, host] = [lab.node('home'), lab.node('host1')];
  await home.run(['sh', '-c', 'mkdir /tmp/mounted && mount -t tmpfs probe /tmp/mounted && touch /tmp/mounted/file']);
  assert.not(await exists(host, '/tmp/mounted/file'));
  assert.not(existsSync('/tmp/mounted/file'));
  assert.not((await mountsOf(host)).some(({ path }) => path === '/tmp/mounted'));
  assert.not(readFileSync('/proc/self/mountinfo', 'utf8').includes('/tmp/mounted'));

  for (const node of lab.nodes) {
    assert.is(
      (await node.run(['cat', '/proc/sys/kernel/hostname', '/etc/hostname'])).stdout,
      `${node.name}\n${node.name}\n`,
    );
    assert.is((await node.run(['ls', '/sys/class/net'])).stdout, 'eth0\nlo\n');
  }
  await home.run(['ip', 'link', 'add', 'tap7', 'type', 'veth', 'peer', 'name', 'tap8']);
  assert.not((await host.run(['ls', '/sys/class/net'])).stdout.includes('tap'));
});

test('run on an operating system that they cannot change', async () => {
  for (const place of ['/', '/usr', '/usr/bin', projectFile('')]) {
    const command = ['touch', join(place, 'probe')];
    try {
      await lab.node('home').run(command);
      assert.unreachable(`${place} is writable`);
    } catch (error) {
      if (!(error instanceof ExternalError)) throw error;
      assert.match(error.log.join('\n'), /Read-only file system/);
    }
  }
  await lab.node('home').run([process.execPath, '--check', projectFile('cli/bin/run.js')]);
});

test('may change their /etc without the others or the machine noticing', async () => {
  const [home, host] = [lab.node('home'), lab.node('host1')];
  const before = readFileSync('/etc/passwd', 'utf8');
  await home.run(['sh', '-c', 'echo probe:x:4242:4242::/:/bin/false >>/etc/passwd']);
  assert.match((await home.run(['cat', '/etc/passwd'])).stdout, /^probe:/m);
  assert.is((await host.run(['cat', '/etc/passwd'])).stdout, before);
  assert.is(readFileSync('/etc/passwd', 'utf8'), before);
});

test('have devices whose modes are their own, and that work', async () => {
  const [home, host] = [lab.node('home'), lab.node('host1')];
  await home.run(['chmod', '600', '/dev/null']);
  assert.is((await host.run(['stat', '-c', '%a', '/dev/null'])).stdout.trim(), '666');
  await home.run(['sh', '-c', 'head -c 1 /dev/zero >/dev/full || head -c 1 /dev/urandom >/dev/null']);
  await home.run(['ip', 'tuntap', 'add', 'dev', 'tap0', 'mode', 'tap']);
  await home.run(['ip', 'tuntap', 'del', 'dev', 'tap0', 'mode', 'tap']);
});

test('have certificates of their own, and none has the key that signs them', async () => {
  const key = readFileSync(lab.files.authorityKey, 'utf8').split('\n')[1] ?? '';
  assert.ok(key.length > 40);
  const serials = new Set<string>();
  for (const node of lab.nodes) {
    const { stdout } = await node.run(['sh', '-c', 'cd /etc/homeproxy && stat -c "%n %a" . * && cat node.pem || :']);
    if (node.role === 'client') assert.not.match(stdout, /node/);
    else assert.match(stdout, /^\. 755\n.*\bnode\.key 600\nnode\.pem/ms);
    serials.add(stdout);
    const found = await node.run([
      'sh',
      '-c',
      'grep -rlF -e "$1" /run /tmp /var /etc /root /home /mnt 2>/dev/null || :',
      'sh',
      key,
    ]);
    assert.is(found.stdout, '', `${node.name} has the authority's key`);
    assert.not(await exists(node, '/run/homeproxy-lab'));
  }
  assert.is(serials.size, lab.nodes.length);
});

test('reach each other by name and address', async () => {
  const listen = "require('net').createServer(s=>s.end('hello')).listen(9000,'10.77.0.2',()=>console.log('listening'))";
  const server = lab.node('home').spawn(['node', '-e', listen], ['ignore', 'pipe', 'inherit']);
  await new Promise((resolve) => server.stdout?.once('data', resolve));
  const ask = "require('net').connect(9000,'home').on('data',d=>{console.log(String(d));process.exit()})";
  for (const name of ['client', 'host1', 'host2']) {
    assert.is((await lab.node(name).run(['node', '-e', ask])).stdout, 'hello\n');
  }
  const { stdout } = await lab.node('client').run(['ip', '-j', 'neighbour', 'show', '10.77.0.2']);
  assert.is(JSON.parse(stdout)[0].dev, 'eth0');
});

test('are apart from those of a second lab, which is there at the same time with the same addresses', async () => {
  const before = readdirSync('/sys/class/net');
  const second = await bareLab('second', { hosts: 1 });
  const all = [...lab.nodes, ...second.nodes].flatMap(({ initPid }) => namespacesOf(initPid));
  assert.is(all.length, 6 * 7);
  assert.is(new Set(all).size, all.length, 'a namespace has two owners');
  const ask =
    "require('net').connect(9000,'10.77.0.2').on('error',e=>{console.log(e.code);process.exit()}).on('data',console.log)";
  assert.is((await second.node('client').run(['node', '-e', ask])).stdout, 'ECONNREFUSED\n');
  assert.equal(readdirSync('/sys/class/net'), before, "a device in the machine's own network namespace");
});

test('leave nothing when their lab is taken down, though one is full of mounts and processes', async () => {
  const busy = await bareLab('busy', { hosts: 1 });
  const namespaces = busy.nodes.flatMap(({ initPid }) => namespacesOf(initPid));
  const home = busy.node('home');
  // A pod, as the product makes them: namespaces inside the node, in a cgroup beside the node's own.
  await home.run(['mkdir', '/sys/fs/cgroup/pod']);
  const pod = [
    'unshare',
    '--net',
    '--pid',
    '--mount',
    '--fork',
    '--mount-proc',
    'sh',
    '-c',
    'trap "" TERM INT; sleep 5000',
  ];
  const inside = await home.detach(['sh', '-c', 'echo 0 >/sys/fs/cgroup/pod/cgroup.procs; exec "$@"', 'sh', ...pod]);
  await home.run(['mount', '-t', 'tmpfs', 'probe', '/mnt']);
  const machinePid = home.machinePid(inside);
  assert.ok(machinePid !== undefined);
  namespaces.push(...namespacesOf(machinePid ?? 0));
  assert.ok(leftovers(busy.name, namespaces).length > 0, 'the search for left-overs finds nothing in a running lab');
  assert.is(await Lab.down(busy.name), true);
  assert.equal(leftovers(busy.name, namespaces, true), []);
  assert.is((await Lab.status(busy.name)).state, 'down');
  assert.is(await Lab.down(busy.name), false);
});

test.run();
