/** Connections that a process had closed before it departed: this node brings them to their end. */
import '../addon/private-namespaces.js';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { BpfObject } from '../../addon/lib/index.js';
import { Action, type BindingStruct, Egress, FastKind, Hold } from '../../cli/forwarding/abi.gen.js';
import { encodeAddress } from '../../cli/forwarding/address.js';
import { tunnelFields } from '../../cli/forwarding/encapsulation.js';
import type { Flow, LocalPort } from '../../cli/forwarding/flow-keys.js';
import { Tables } from '../../cli/forwarding/tables.js';
import { LeftBehind as LeftBehindConnections } from '../../cli/migration/left-behind.js';
import { projectFile } from '../../cli/system/project.js';
import { suite } from '../suite.js';
import { type ArrivalRow, back, pass, testArrivals } from './arrival-table.js';
import type { Bench, BindingFields } from './bench.js';
import {
  BINDING,
  CARE_OF,
  CLIENT_PORT,
  CORRESPONDENT,
  frame,
  furnish,
  HOME,
  homeBench,
  icmpError,
  onward,
  reply,
  request,
  tunnelled,
} from './scene.js';

const PORT = 5000;
const away: BindingFields = { action: 'tunnel', egress: 'shut', careOf: CARE_OF };
const leaveOne = (bench: Bench): Bench =>
  bench.claim(BINDING, HOME, PORT, { leftBehind: true }).flow(0, [HOME, PORT], [CORRESPONDENT, CLIENT_PORT]);

const rows: readonly ArrivalRow[] = [
  {
    description: 'passes what comes for one, to the kernel that still has it',
    at: 'home',
    binding: away,
    prepare: leaveOne,
    input: frame(request({ port: PORT, flags: 'A', payload: Buffer.alloc(0) })),
    ...pass,
    reason: 'not_ours',
  },
  {
    description: 'passes it while the rest is parked',
    at: 'home',
    binding: { action: 'park', egress: 'shut' },
    prepare: leaveOne,
    input: frame(request({ port: PORT, flags: 'FA' })),
    ...pass,
    reason: 'not_ours',
  },
  {
    description: 'tunnels a new connection from the same port of the correspondent',
    at: 'home',
    binding: away,
    prepare: leaveOne,
    input: frame(request({ port: PORT, flags: 'S', payload: Buffer.alloc(0) })),
    output: onward(tunnelled(request({ port: PORT, flags: 'S', payload: Buffer.alloc(0) }))),
    ...back,
    reason: 'tunnelled',
  },
  {
    description: 'tunnels every other connection of the port',
    at: 'home',
    binding: away,
    prepare: leaveOne,
    input: frame(request({ port: PORT, fromPort: CLIENT_PORT + 1 })),
    output: onward(tunnelled(request({ port: PORT, fromPort: CLIENT_PORT + 1 }))),
    ...back,
    reason: 'tunnelled',
  },
  {
    description: 'tunnels the exact flows of a port that several share, but for those',
    at: 'home',
    binding: away,
    prepare: (bench) =>
      bench
        .claim(BINDING, HOME, PORT, { leftBehind: true, shared: true })
        .flow(BINDING, [HOME, PORT], [CORRESPONDENT, CLIENT_PORT])
        .flow(0, [HOME, PORT], [CORRESPONDENT, CLIENT_PORT + 1]),
    input: frame(request({ port: PORT })),
    output: onward(tunnelled(request({ port: PORT }))),
    ...back,
    reason: 'tunnelled',
  },
];
testArrivals('left behind, arriving', rows);

const leaving = suite('left behind, leaving');
const bench = homeBench();
leaving.after(() => void bench.close());

leaving('the kernel that still has one may speak for it, and for no other', () => {
  leaveOne(furnish(bench.clear()).bind(BINDING, away));
  const said = (packet: Buffer): string => bench.run('hp_egress', frame(packet)).verdict;
  assert.is(said(reply({ fromPort: PORT, flags: 'FA' })), 'pass');
  assert.is(said(icmpError(request({ port: PORT }), { source: HOME, destination: CORRESPONDENT })), 'pass');
  assert.is(said(reply({ fromPort: PORT, port: CLIENT_PORT + 1, flags: 'FA' })), 'drop');
});
leaving.run();

interface World {
  readonly tables: Tables;
  kindOf(port: number): number;
}
const keeping = suite<World>('left behind, from the first to the last');
const port = (number: number): LocalPort => ({ protocol: 'tcp', address: HOME, port: number });
const flow = (number: number, from: number): Flow => ({
  protocol: 'tcp',
  local: { address: HOME, port: number },
  remote: { address: CORRESPONDENT, port: from },
});

const HERE = '127.0.0.2';
const nowhere = { ifindex: 0, mtu: 0, resolved: 0, source: Buffer.alloc(6), destination: Buffer.alloc(6) };
const atHome: BindingStruct = {
  epoch: 1,
  action: Action.pass,
  egress: Egress.open,
  draining: 0,
  hold: Hold.nothing,
  park_ifindex: 0,
  uplink_ifindex: 0,
  pod_ifindex: 0,
  pod_mac: Buffer.alloc(6),
  host_mac: Buffer.alloc(6),
  ...tunnelFields({ to: '0.0.0.0', encapsulation: 'ip' }),
  node: encodeAddress(HOME),
  home: encodeAddress(HOME),
  next_hop: nowhere,
};

keeping.before.each((world) => {
  const object = BpfObject.open(projectFile('bpf/build/homeproxy.bpf.o'), {
    mapSizes: { flows: 64, ports: 64, binding_counters: 64 },
  }).load();
  const tables = new Tables(object);
  const fastPorts = object.map('fast_ports');
  const kindOf = (number: number): number => {
    const key = Buffer.alloc(4);
    key.writeUInt32LE(number);
    return fastPorts.get(key)?.readUInt8(6) ?? -1;
  };
  object.close();
  Object.assign(world, { tables, kindOf });
});
keeping.after.each(({ tables }) => tables.close());

keeping('its port leaves the fast path for as long as it has one', ({ tables, kindOf }) => {
  tables.claimPort(port(PORT), BINDING, false);
  assert.is(kindOf(PORT), FastKind.own);
  tables.leftBehind.keep([flow(PORT, 1), flow(PORT, 2), flow(80, 1)]);
  assert.is(kindOf(PORT), FastKind.none);
  const [first, second] = [flow(PORT, 1), flow(PORT, 2)].map((each) => tables.leftBehind.nameOf(each));
  assert.equal(tables.leftBehind.kept().sort(), [first, second].sort(), 'and none of a port that is nobody’s');
  tables.leftBehind.letGo([first ?? '']);
  assert.is(kindOf(PORT), FastKind.none);
  tables.leftBehind.letGo([second ?? '']);
  assert.is(kindOf(PORT), FastKind.own);
  assert.equal(tables.leftBehind.kept(), []);
});

keeping(
  'they stay when the binding claims its port again, and when the fast path is copied anew',
  ({ tables, kindOf }) => {
    tables.claimPort(port(PORT), BINDING, false);
    tables.leftBehind.keep([flow(PORT, 1)]);
    tables.claimPort(port(PORT), BINDING, false);
    tables.copyToFastPath();
    assert.is(kindOf(PORT), FastKind.none);
    assert.equal(tables.leftBehind.kept(), [tables.leftBehind.nameOf(flow(PORT, 1))]);
  },
);

keeping('they go with the binding', ({ tables }) => {
  tables.claimPort(port(PORT), BINDING, false);
  tables.leftBehind.keep([flow(PORT, 1)]);
  tables.removeBinding(BINDING);
  tables.claimPort(port(PORT), BINDING, false);
  tables.leftBehind.keep([]);
  assert.equal(tables.leftBehind.kept(), []);
  tables.leftBehind.keep([flow(PORT, 2)]);
  assert.equal(tables.leftBehind.kept(), [tables.leftBehind.nameOf(flow(PORT, 2))], 'not the first one');
});

keeping(
  'a daemon that starts again forgets them when the kernel is done with them, not before',
  async ({ tables, kindOf }) => {
    const listener = createServer().listen(0, HERE);
    await once(listener, 'listening');
    const { port: listened } = listener.address() as AddressInfo;
    const client = connect(listened, HERE).pause();
    const [server] = (await once(listener, 'connection')) as [Socket];
    server.write(Buffer.alloc(1 << 24)); // more than both ends hold
    tables.putBinding(BINDING, atHome);
    tables.claimPort({ ...port(listened), address: HERE }, BINDING, false);
    server.destroy();
    await once(server, 'close');
    const before = new LeftBehindConnections(tables);
    before.keep([listened], HOME);
    before.close();
    const after = new LeftBehindConnections(tables);
    assert.is(tables.leftBehind.kept().length, 1);
    client.resetAndDestroy(); // then the kernel has nothing to wait for, not even TIME_WAIT
    for (const deadline = performance.now() + 20_000; tables.leftBehind.kept().length > 0; await sleep(50)) {
      assert.ok(performance.now() < deadline);
    }
    assert.is(kindOf(listened), FastKind.own);
    after.close();
    listener.close();
  },
);
keeping.run();
