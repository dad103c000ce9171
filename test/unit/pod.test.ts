// limit: 120 s
import { execFileSync } from 'node:child_process';
import { readdirSync, writeFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { createPod, destroyPod, type PodOptions, type PodRecord, podAlive } from '../../cli/pod/pod.js';
import { Cgroup, unifiedMount } from '../../cli/system/cgroup.js';
import { listProcesses, readChildren, readNamespace, readProcess } from '../../cli/system/procfs.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import { enterPrivateWorld, ip, until } from './private-world.js';

const entered = enterPrivateWorld({ processes: true });
const test = suite('pod');

const HOME = '10.77.0.2';
const HOME_6 = 'fd77::2';
// pods are below one cgroup of the product: the name must not be that of anybody else's pod
let pods = 0;
function options(): PodOptions {
  const name = `hpt${(Date.now() % 1e6).toString(36)}x${pods++}`;
  return { name, homeAddresses: [HOME, HOME_6], mtu: 1500, tunnelOverhead: 20 };
}

function inside(pod: PodRecord, ...command: readonly string[]): string {
  return execFileSync('nsenter', ['-t', String(pod.init.pid), '-n', '-m', '-p', '--', ...command], {
    encoding: 'utf8',
  });
}

interface Row {
  readonly [field: string]: unknown;
}
const rows = (text: string): Row[] => JSON.parse(text) as Row[];
const names = (text: string): unknown[] => rows(text).map(({ ifname }) => ifname);

/** What a pod could have left behind, beside the processes that were there before. */
function leftovers({ name }: PodOptions, before: readonly number[]): unknown[] {
  return [
    ...names(execFileSync('ip', ['-j', 'link'], { encoding: 'utf8' })).filter((link) => link === name),
    ...listProcesses().filter((pid) => !before.includes(pid) && readProcess(pid)?.state !== 'Z'),
    ...[new Cgroup(`${unifiedMount()}/homeproxy/${name}`)].filter((cgroup) => cgroup.exists),
  ];
}

async function withPod(change: Partial<PodOptions>, body: (pod: PodRecord) => void | Promise<void>): Promise<void> {
  const pod = await createPod({ ...options(), ...change });
  try {
    await body(pod);
  } finally {
    await destroyPod(pod);
  }
}

// A daemon keeps the folder of all pods; on this machine there is none.
test.after(() => {
  const all = new Cgroup(`${unifiedMount()}/homeproxy`);
  if (all.exists && readdirSync(all.path, { withFileTypes: true }).every((entry) => !entry.isDirectory())) all.remove();
});

test('has namespaces of its own, an init that is number 1 there, and shares the rest with the host', () =>
  withPod({}, (pod) => {
    for (const kind of ['net', 'mnt', 'pid'] as const) {
      assert.is.not(readNamespace(pod.init.pid, kind), readNamespace('self', kind));
    }
    for (const kind of ['user', 'uts', 'ipc'] as const) {
      assert.is(readNamespace(pod.init.pid, kind), readNamespace('self', kind));
    }
    assert.ok(podAlive(pod));
    assert.is(inside(pod, 'cat', '/proc/1/comm').trim(), 'catatonit');
    assert.is(inside(pod, 'sh', '-c', 'echo /proc/[0-9]*').split(' ').length, 2); // the init and this shell
    assert.ok(new Cgroup(pod.cgroup).exists);
  }));

test('the home addresses of both families are local there, and all else is reached by the link to the host', () =>
  withPod({}, (pod) => {
    const [eth0] = rows(inside(pod, 'ip', '-j', 'address', 'show', 'dev', 'eth0')) as [Row & { addr_info: Row[] }];
    assert.equal(
      eth0.addr_info.map(({ local, prefixlen, tentative }) => `${local}/${prefixlen} ${tentative ?? 'usable'}`),
      [`${HOME}/32 usable`, `${HOME_6}/128 usable`],
    );
    for (const [family, address, correspondent] of [
      ['-4', HOME, '192.0.2.1'],
      ['-6', HOME_6, '2001:db8::1'],
    ] as const) {
      const [route] = rows(inside(pod, 'ip', family, '-j', 'route', 'get', correspondent));
      assert.is(route?.prefsrc, address);
      assert.is(route?.dev, 'eth0');
      const neighbours = rows(inside(pod, 'ip', family, '-j', 'neighbour', 'show', 'dev', 'eth0'));
      const gateway = neighbours.find(({ dst }) => dst === route?.gateway);
      assert.is(gateway?.lladdr, pod.hostMac);
      assert.equal(gateway?.state, ['PERMANENT']);
      assert.match(inside(pod, 'ip', family, 'route', 'get', address), /^local /);
    }
    const [loopback] = rows(inside(pod, 'ip', '-j', 'link', 'show', 'dev', 'lo')) as [Row & { flags: string[] }];
    assert.ok(loopback.flags.includes('UP'));
  }));

test("new sockets there behave as the node's settings say, not as a new namespace's do", () => {
  writeFileSync('/proc/sys/net/ipv4/tcp_keepalive_time', '77');
  writeFileSync('/proc/sys/net/ipv4/tcp_congestion_control', 'reno');
  return withPod({}, (pod) => {
    assert.is(inside(pod, 'cat', '/proc/sys/net/ipv4/tcp_keepalive_time').trim(), '77');
    assert.is(inside(pod, 'cat', '/proc/sys/net/ipv4/tcp_congestion_control').trim(), 'reno');
  });
});

test('its kernel is in no multicast group that it would report on the link', () =>
  withPod({}, (pod) => {
    const groups = inside(pod, 'cat', '/proc/net/igmp6').split('\n');
    assert.equal(
      groups.map((line) => line.trim().split(/\s+/)).flatMap(([, device, group]) => (device === 'eth0' ? [group] : [])),
      ['ff020000000000000000000000000001', 'ff010000000000000000000000000001'], // all nodes: never reported (RFC 3810, 6)
    );
  }));

test('a home without IPv6 needs none there', () =>
  withPod({ homeAddresses: [HOME] }, (pod) => {
    assert.equal(rows(inside(pod, 'ip', '-6', '-j', 'address', 'show', 'dev', 'eth0')), []);
    assert.equal(inside(pod, 'ip', '-6', 'route', 'show', 'default'), '');
  }));

test('both ends of its link have the given MTU and the MACs of its record, and no IPv6 address speaks first', () =>
  withPod({ mtu: 1400 }, (pod) => {
    const [outer] = rows(execFileSync('ip', ['-j', 'address', 'show', 'dev', pod.hostInterface], { encoding: 'utf8' }));
    const [inner] = rows(inside(pod, 'ip', '-j', 'address', 'show', 'dev', 'eth0'));
    assert.equal([outer?.mtu, inner?.mtu], [1400, 1400]);
    assert.equal([outer?.address, inner?.address], [pod.hostMac, pod.podMac]);
    assert.is(outer?.ifindex, pod.hostIfindex);
    assert.equal(outer?.addr_info, []);
    for (const mac of [pod.hostMac, pod.podMac]) {
      const first = Number.parseInt(mac.slice(0, 2), 16);
      assert.is(first & 3, 2, 'locally administered, and no multicast address');
    }
    assert.is.not(pod.hostMac, pod.podMac);
    assert.match(inside(pod, 'ethtool', '-k', 'eth0'), /generic-receive-offload: on/);
  }));

for (const [mtu, tunnelOverhead, advertised, advertised6] of [
  [1500, 20, 1440, 1420],
  [1500, 40, 1420, 1400],
  [9000, 20, 8940, 8920],
] as const) {
  test(`with an MTU of ${mtu} and a tunnel of ${tunnelOverhead} it advertises segments of ${advertised}, IPv6 ${advertised6}`, () =>
    withPod({ mtu, tunnelOverhead }, (pod) => {
      const mss = (family: string): unknown => {
        const [route] = rows(inside(pod, 'ip', family, '-j', 'route', 'show', 'default')) as [{ metrics: Row[] }];
        return route.metrics[0]?.advmss;
      };
      assert.equal([mss('-4'), mss('-6')], [advertised, advertised6]);
    }));
}

test('the next process there gets a number that is clear of all that will be restored', async () => {
  const taken = [300, 350, 414, 1200, 2230, 9000];
  await withPod({ taken }, (pod) => {
    const next = Number(inside(pod, 'sh', '-c', 'exec sh -c "echo \\$\\$"'));
    assert.ok(next >= 3230 && next < 3245, `${next}`); // and of what they may start until then
    for (const pid of taken) assert.ok(pid < next || pid >= next + 40, `${pid} is near ${next}`);
  });
});

test('nothing of it is left, and to remove it once more is fine', async () => {
  const chosen = options();
  const before = listProcesses();
  const pod = await createPod(chosen);
  assert.ok(leftovers(chosen, before).length >= 3);
  await destroyPod(pod);
  await until('its init has ended, and its link goes with it', () => leftovers(chosen, before).length === 0);
  assert.not.ok(podAlive(pod));
  await destroyPod(pod);
});

test('a pod of the same name can be made at once', async () => {
  const chosen = options();
  for (let round = 0; round < 10; round++) await destroyPod(await createPod(chosen));
});

test('all that runs in it ends with it, frozen or not', async () => {
  const pod = await createPod(options());
  const cgroup = new Cgroup(pod.cgroup);
  execFileSync('nsenter', [
    ...['-t', String(pod.init.pid), '-n', '-m', '-p', '--'],
    ...['sh', '-c', 'setsid sleep 3600 >/dev/null 2>&1 &'],
  ]);
  await until('it runs', () => readChildren(pod.init.pid).length > 0);
  const [sleeper = 0] = readChildren(pod.init.pid);
  cgroup.add(sleeper);
  cgroup.setFrozen(true);
  await destroyPod(pod);
  assert.not.ok(cgroup.exists);
  await until('it has ended', () => readProcess(sleeper) === undefined);
});

test('a step that fails leaves nothing behind', async () => {
  const chosen = options();
  ip(`link add ${chosen.name} type veth peer name peer0`); // the name is taken
  const before = listProcesses();
  let thrown: unknown;
  await createPod(chosen).catch((error: unknown) => {
    thrown = error;
  });
  assert.instance(thrown, Error);
  ip(`link del ${chosen.name}`);
  await until('its init is gone', () => leftovers(chosen, before).length === 0);
});

test('an init that somebody killed is noticed, and the pod can still be removed', async () => {
  const pod = await createPod(options());
  process.kill(pod.init.pid, 'SIGKILL');
  await until('it is seen', () => !podAlive(pod));
  await destroyPod(pod);
  assert.not.ok(new Cgroup(pod.cgroup).exists);
});

if (!entered) skip(test, 'pod', 'needs root');
test.run();
