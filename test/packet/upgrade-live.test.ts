// limit: 300 s
/**
 * The programs of a home node, and then those of the care-of host, are replaced again and again, by a build with other structures
 * and back, while numbered datagrams go through the tunnel to a process that is away: every single one arrives, or is answered.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { xdpQuery } from '../../addon/lib/index.js';
import { Datapath } from '../../cli/forwarding/datapath.js';
import type { AttachChoice } from '../../cli/forwarding/hook-choice.js';
import { Neighbours } from '../../cli/forwarding/neighbours.js';
import { readLink } from '../../cli/system/ip.js';
import { projectFile } from '../../cli/system/project.js';
import { RouteMonitor } from '../../cli/system/route-monitor.js';
import { bpffs, folder } from '../addon/private-namespaces.js';
import { suite } from '../suite.js';
import type { Upgrade } from './care-of-main.js';
import { asFilterToo, type Classifier, classifiers } from './classifiers.js';
import { departed } from './departed.js';
import { CARE_OF, CORRESPONDENT, HOME, POD_HOST_MAC, POD_MAC, PORT } from './live-addresses.js';
import { joinLan, type Lan, Machine, type Traffic } from './network.js';

const CARE_OF_MAIN = fileURLToPath(new URL('./care-of-main.js', import.meta.url));
const ID = 1;
const UPGRADES = 6;
/** How the tc programs are attached, first and after each upgrade: filters as older builds left them become tcx, and back. */
const BY_TCX = [false, true, false, false, true, true, false];
/** Of the care-of host, which begins with filters: to tcx by a daemon that is killed on the way, and by the next one, and back. */
const UPGRADES_AWAY = [
  { tcx: true, unfinished: true, by: ['tcx', 'filter'] },
  { tcx: true, by: ['tcx'] },
  { tcx: false, by: ['filter'] },
];
/** Between them, in milliseconds. */
const TRAFFIC_MS = 100;

const own = Machine.own();
let machines: Machine[] = [];
let lan: Lan;
let careOfNode: Traffic;
/** Who talks, to be ended whatever comes of it. */
let talking: Traffic[] = [];

/** The same datapath with one more field in its bindings, before all others. */
function grownObject(): string {
  const source = mkdtempSync(join(folder, 'grown'));
  for (const file of readdirSync(projectFile('bpf')).filter((each) => /\.(h|c)$|^Makefile$/.test(each))) {
    const text = readFileSync(projectFile(`bpf/${file}`), 'utf8');
    writeFileSync(join(source, file), text.replace('struct binding {\n', 'struct binding {\n\t__u64 colour;\n'));
  }
  execFileSync('make', ['-s', '-C', source], { stdio: ['ignore', 'ignore', 'inherit'] });
  return join(source, 'build/homeproxy.bpf.o');
}

const BUILDS = [grownObject(), projectFile('bpf/build/homeproxy.bpf.o')] as const;

/** What runs after so many upgrades; another build each time. */
const version = (upgrades: number): Upgrade => ({
  objectPath: BUILDS[upgrades % 2 === 0 ? 1 : 0],
  tcx: BY_TCX[upgrades] ?? true,
});

const open = (attach: AttachChoice, upgrade: Upgrade): Promise<Datapath> =>
  Datapath.open({
    ...upgrade,
    pins: join(bpffs, 'home'),
    run: join(folder, 'run'),
    nodeAddress: HOME,
    uplinks: [{ interface: 'up0', attach }],
  });

async function start(attach: AttachChoice): Promise<{ correspondent: Machine; pod: Machine }> {
  const [correspondent, careOf, pod] = [await Machine.create(), await Machine.create(), await Machine.create()];
  machines = [correspondent, careOf, pod];
  lan = await joinLan({ [CORRESPONDENT]: correspondent, [HOME]: own, [CARE_OF]: careOf });
  careOf.ip(
    `link add pod0 address ${POD_HOST_MAC} type veth peer name eth0 address ${POD_MAC} netns ${pod.pid}`,
    'link set pod0 addrgenmode none up',
  );
  pod.ip(
    `address add ${HOME}/32 dev eth0`,
    'link set eth0 addrgenmode none up',
    `neighbour add 169.254.77.1 lladdr ${POD_HOST_MAC} nud permanent dev eth0`,
    `route add default via 169.254.77.1 dev eth0 onlink src ${HOME}`,
  );
  pod.run('ethtool', '-K', 'eth0', 'gro', 'on');
  careOfNode = careOf.startProgram(CARE_OF_MAIN, attach, folder, bpffs);
  await careOfNode.next('ready', 60_000);
  return { correspondent, pod };
}

async function bind(datapath: Datapath): Promise<void> {
  const { ifindex } = await readLink('up0');
  const monitor = new RouteMonitor();
  const neighbours = new Neighbours(monitor);
  const next_hop = await neighbours.resolve(CARE_OF);
  neighbours.close();
  monitor.close();
  assert.is(next_hop.resolved, 1);
  datapath.tables.putBinding(ID, departed(ifindex, CARE_OF, next_hop));
  datapath.tables.claimPort({ protocol: 'udp', address: HOME, port: PORT }, ID, false);
}

/** What runs on the uplink now. */
async function programs(): Promise<{ ids: (number | undefined)[]; by: string[] }> {
  const { ifindex } = await readLink('up0');
  const tc = (['ingress', 'egress'] as const).flatMap((direction) => classifiers(ifindex, direction));
  return {
    ids: [xdpQuery(ifindex)?.programId, ...tc.map(({ programId }) => programId)],
    by: tc.map(({ by }) => by),
  };
}

const tunnelled = (datapath: Datapath): number => Number(datapath.bindingCounters(ID).tunnelled?.packets ?? 0n);

for (const attach of ['xdp', 'xdp-generic', 'tc'] as const) {
  const test = suite(`upgrades under traffic by ${attach}`);
  let datapath: Datapath | undefined;
  let ends: { correspondent: Machine; pod: Machine };

  test.after(async () => {
    for (const each of talking) each.close();
    careOfNode?.finish();
    await careOfNode?.next('gone', 60_000);
    await datapath?.detach();
    datapath?.close();
    lan?.close();
    for (const machine of machines) machine.close();
  });

  test(`${UPGRADES} upgrades lose no packet, and every one is counted`, async () => {
    ends = await start(attach);
    const { correspondent, pod } = ends;
    datapath = await open(attach, version(0));
    await bind(datapath);
    const listener = pod.start('count', HOME, PORT);
    await listener.next('ready', 60_000);
    const sender = correspondent.start('stream', HOME, PORT, 10_000_000);
    const seen = new Set<string>();
    for (let upgrade = 0; upgrade < UPGRADES; upgrade++) {
      const { ids, by } = await programs();
      seen.add(String(ids));
      assert.equal(by, new Array(2).fill(BY_TCX[upgrade] === true ? 'tcx' : 'filter'));
      const before = tunnelled(datapath);
      while (tunnelled(datapath) < before + 200) await new Promise((resolve) => setTimeout(resolve, 5));
      datapath.close();
      datapath = await open(attach, version(upgrade + 1));
    }
    seen.add(String((await programs()).ids));
    sender.finish();
    const { packets: sent } = (await sender.next('sent', 60_000)) as unknown as { packets: number };
    while (tunnelled(datapath) < sent) await new Promise((resolve) => setTimeout(resolve, 5));
    listener.finish(String(sent));
    const counted = await listener.next('counted', 60_000);
    assert.is(seen.size, UPGRADES + 1, 'the programs were others each time');
    assert.ok(sent >= 200 * UPGRADES);
    assert.equal(
      { received: counted.received, distinct: counted.distinct, late: counted.late },
      { received: sent, distinct: sent, late: 0 },
    );
    assert.is(tunnelled(datapath), sent);
    console.log(`${attach}: ${sent} packets sent and received over ${UPGRADES} upgrades`);
  });

  // Generic XDP is replaced as native XDP is.
  const away = attach === 'xdp-generic' ? undefined : test;
  away?.(
    'upgrades of the care-of host lose neither what its guest hears nor what it says, killed on their way or not',
    async () => {
      const guest = ends.pod.start('echo', HOME, PORT);
      talking = [guest];
      await guest.next('ready', 60_000);
      const asking = ends.correspondent.start('ask', HOME, PORT);
      talking.push(asking);
      await asking.next('answered', 60_000);
      const seen: number[] = [];
      for (const [index, { by, ...upgrade }] of UPGRADES_AWAY.entries()) {
        await sleep(TRAFFIC_MS);
        careOfNode.tell(JSON.stringify({ ...version(index), ...upgrade }));
        const { xdp, tc } = (await careOfNode.next('upgraded', 60_000)) as unknown as {
          xdp?: number;
          tc: Classifier[][];
        };
        const found = tc.map((side) => side.map((each) => each.by));
        assert.equal(found, [by, by, by]);
        assert.is(xdp !== undefined, attach === 'xdp');
        seen.push(...tc.map(([first]) => first?.programId ?? 0), ...(xdp === undefined ? [] : [xdp]));
      }
      assert.is(new Set(seen).size, seen.length, 'all are others each time');
      await sleep(TRAFFIC_MS);
      await unfinishedAtHome();
      asking.finish();
      const { asked, answers, distinct } = await asking.next('asked', 60_000);
      guest.finish();
      assert.ok((asked as number) > 100 * UPGRADES_AWAY.length);
      assert.equal({ answers, distinct }, { answers: asked, distinct: asked });
      console.log(
        `${attach}: ${asked} questions to a guest answered over ${UPGRADES_AWAY.length} upgrades of its host`,
      );
    },
  );

  /** The home node goes from filters to tcx, by a daemon that is killed on the way and by the next one. */
  async function unfinishedAtHome(): Promise<void> {
    const { ifindex } = await readLink('up0');
    for (const tcx of [false, true]) {
      datapath?.close();
      datapath = await open(attach, { ...version(0), tcx });
    }
    for (const direction of ['ingress', 'egress'] as const) asFilterToo(ifindex, direction);
    assert.equal((await programs()).by, ['tcx', 'filter', 'tcx', 'filter']);
    await sleep(TRAFFIC_MS);
    datapath?.close();
    datapath = await open(attach, { ...version(0), tcx: true });
    assert.equal((await programs()).by, ['tcx', 'tcx']);
    await sleep(TRAFFIC_MS);
  }

  test.run();
}
