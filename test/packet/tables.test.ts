/** What the controller writes into the maps, and what is left of a binding when it goes. */

import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { BpfMap } from '../../addon/lib/index.js';
import { Action, type BindingStruct, Egress, Encapsulation } from '../../cli/forwarding/abi.gen.js';
import { decodeAddress, encodeAddress } from '../../cli/forwarding/address.js';
import { Datapath } from '../../cli/forwarding/datapath.js';
import { tunnelFields, tunnelOverhead } from '../../cli/forwarding/encapsulation.js';
import type { Flow, LocalPort } from '../../cli/forwarding/flow-keys.js';
import { projectFile } from '../../cli/system/project.js';
import { bpffs, folder } from '../addon/private-namespaces.js';
import { suite } from '../suite.js';

const HOME = '10.0.0.2';
const pins = join(bpffs, 'tables');
const datapath = await Datapath.open({
  objectPath: projectFile('bpf/build/homeproxy.bpf.o'),
  pins,
  run: join(folder, 'tables'),
  nodeAddress: HOME,
  uplinks: [],
  flowCapacity: 5000,
});
const { tables } = datapath;

const binding: BindingStruct = {
  epoch: 3,
  action: Action.tunnel,
  egress: Egress.shut,
  draining: 1,
  hold: 0,
  park_ifindex: 11,
  uplink_ifindex: 12,
  pod_ifindex: 13,
  pod_mac: Buffer.from('020000000001', 'hex'),
  host_mac: Buffer.from('020000000002', 'hex'),
  ...tunnelFields({ to: '10.0.0.3', encapsulation: 'ip' }),
  node: encodeAddress(HOME),
  home: encodeAddress(HOME),
  next_hop: {
    ifindex: 14,
    mtu: 1500,
    resolved: 1,
    source: Buffer.from('020000000003', 'hex'),
    destination: Buffer.from('020000000004', 'hex'),
  },
};

const port = (number: number, protocol: 'tcp' | 'udp' = 'tcp', address = HOME): LocalPort => ({
  protocol,
  address,
  port: number,
});
const flow = (local: number, remote: number): Flow => ({
  protocol: 'tcp',
  local: { address: HOME, port: local },
  remote: { address: '10.0.0.1', port: remote },
});

/** Entries of the pinned maps that belong to bindings, by map. */
function entries(): Record<string, number> {
  const names = ['ports', 'flows', 'bindings', 'park_states', 'park_releases', 'binding_counters'];
  return Object.fromEntries(
    names.map((name) => {
      const map = BpfMap.openPinned(join(pins, 'maps', name));
      try {
        return [name, [...map.keys()].length];
      } finally {
        map.close();
      }
    }),
  );
}

/** Ports whose bit is set, UDP's beyond 65535. */
function filtered(): number[] {
  const map = BpfMap.openPinned(join(pins, 'maps', 'port_filter'));
  const set: number[] = [];
  for (const [key, value] of map.entries()) {
    const word = value.readBigUInt64LE();
    for (let bit = 0; bit < 64; bit++) if (word & (1n << BigInt(bit))) set.push(key.readUInt32LE() * 64 + bit);
  }
  map.close();
  return set;
}

const test = suite('tables');

test('a binding comes back as it was written', () => {
  tables.putBinding(1, binding);
  assert.equal(tables.bindings.get(1), binding);
  tables.removeBinding(1);
});

test('an older epoch never wins; the same or a later one does', () => {
  tables.putBinding(1, binding);
  assert.throws(() => tables.putBinding(1, { ...binding, epoch: 2 }), /epoch 3, not 2/);
  tables.putBinding(1, { ...binding, action: Action.park });
  tables.putBinding(1, { ...binding, epoch: 4 });
  assert.is(tables.bindings.get(1)?.epoch, 4);
  tables.removeBinding(1);
});

test('removing a binding leaves nothing of it', () => {
  tables.putBinding(1, binding);
  tables.parkStates.put(1, { parked: 5n, replayed: 5n });
  tables.parkReleases.put(1, { replayed: 5n });
  for (const each of [port(80), port(65_535), port(1), port(53, 'udp')]) tables.claimPort(each, 1, false);
  tables.claimPort(port(5000), 1, true);
  tables.claimFlows([flow(5000, 1), flow(5000, 2)], 1);
  assert.equal(entries(), { ports: 5, flows: 2, bindings: 1, park_states: 1, park_releases: 1, binding_counters: 0 });
  assert.equal(filtered(), [1, 80, 5000, 65_535, 65_536 + 53]);
  tables.removeBinding(1);
  assert.equal(entries(), { ports: 0, flows: 0, bindings: 0, park_states: 0, park_releases: 0, binding_counters: 0 });
  assert.equal(filtered(), []);
});

test('the filter keeps a port that another address still has', () => {
  tables.claimPort(port(80), 1, false);
  tables.claimPort(port(80, 'tcp', '10.0.0.9'), 2, false);
  tables.removeBinding(1);
  assert.equal(filtered(), [80]);
  tables.removeBinding(2);
  assert.equal(filtered(), []);
});

test('a port that two bindings share stays as long as one has flows on it', () => {
  tables.claimPort(port(5000), 1, true);
  tables.claimFlows([flow(5000, 1)], 1);
  tables.claimPort(port(5000), 2, true);
  tables.claimFlows([flow(5000, 2)], 2);
  tables.removeBinding(2);
  assert.equal([entries().ports, entries().flows], [1, 1]);
  assert.equal(tables.portsOf(1), [port(5000)]);
  tables.removeBinding(1);
  assert.equal([entries().ports, entries().flows, filtered()], [0, 0, []]);
});

test('a port belongs to one binding, unless both share it', () => {
  tables.claimPort(port(80), 1, false);
  assert.throws(() => tables.claimPort(port(80), 2, false), /belongs to binding 1/);
  assert.throws(() => tables.claimPort(port(80), 2, true), /belongs to binding 1/);
  tables.claimPort(port(81), 1, true);
  assert.throws(() => tables.claimPort(port(81), 2, false), /belongs to binding 1/);
  const has = (binding: number): boolean[] => [80, 81, 82].map((each) => tables.hasPort(port(each), binding));
  assert.equal([has(1), has(2)], [Array(3).fill(false).with(0, true), Array(3).fill(false)]);
  tables.claimPort(port(80), 1, false);
  tables.removeBinding(1);
});

test('thousands of flows are written at once, and no more than there is room for', () => {
  tables.claimPort(port(5000), 1, true);
  const flows = Array.from({ length: 4000 }, (_, index) => flow(5000, index + 1));
  tables.claimFlows(flows, 1);
  assert.is(entries().flows, 4000);
  assert.throws(
    () =>
      tables.claimFlows(
        Array.from({ length: 2000 }, (_, i) => flow(5001, i + 1)),
        1,
      ),
    /E2BIG/,
  );
  tables.removeBinding(1);
  assert.is(entries().flows, 0);
});

test('nodes are replaced by what the configuration names', () => {
  const known = (): string[] => {
    const map = BpfMap.openPinned(join(pins, 'maps', 'nodes'));
    const addresses = [...map.keys()].map((key) => [...key.subarray(12)].join('.')).sort();
    map.close();
    return addresses;
  };
  tables.setNodes(['10.0.0.3', '10.0.0.4']);
  assert.equal(known(), ['10.0.0.3', '10.0.0.4']);
  tables.setNodes(['10.0.0.4', '10.0.0.5']);
  assert.equal(known(), ['10.0.0.4', '10.0.0.5']);
});

test('a tunnel is written with its kind and its port, in network order', () => {
  const udp = { ...binding, ...tunnelFields({ to: '2001:db8::3', encapsulation: 'udp', port: 0x1234 }) };
  tables.putBinding(1, udp);
  const { care_of, encapsulation, tunnel_port } = tables.bindings.get(1) ?? binding;
  assert.equal([decodeAddress(care_of), encapsulation, tunnel_port], ['2001:db8::3', Encapsulation.udp, 0x3412]);
  tables.removeBinding(1);
});

test('a tunnel takes 20 bytes over IPv4, 40 over IPv6, and 8 more with UDP', () => {
  const overheads = ['10.0.0.3', '2001:db8::3'].flatMap((to) =>
    (['ip', 'udp'] as const).map((encapsulation) => tunnelOverhead({ to, encapsulation })),
  );
  assert.equal(overheads, [20, 28, 40, 48]);
});

test('ports and flows of IPv6 addresses are kept apart from those of IPv4', () => {
  const port6 = port(80, 'tcp', '2001:db8::2');
  tables.claimPort(port(80), 1, false);
  tables.claimPort(port6, 2, true);
  const end = (address: string, number: number) => ({ address, port: number });
  tables.claimFlows([{ protocol: 'tcp', local: end('2001:db8::2', 80), remote: end('2001:db8::1', 4000) }], 2);
  assert.equal([tables.portsOf(1), tables.portsOf(2)], [[port(80)], [port6]]);
  tables.removeBinding(1);
  assert.equal([entries().ports, entries().flows, filtered()], [1, 1, [80]]);
  tables.removeBinding(2);
  assert.equal([entries().ports, entries().flows, filtered()], [0, 0, []]);
});

test('addresses keep their text in the form of 16 bytes', () => {
  for (const address of ['10.0.0.2', '255.255.255.255', '0.0.0.0', '2001:db8::1', '::1']) {
    assert.is(decodeAddress(encodeAddress(address)), address);
  }
});

test.after(async () => {
  await datapath.detach();
  datapath.close();
});

test.run();
