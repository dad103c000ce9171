/** Laws of every kind of tunnel, tried with packets of both families at random (fast-check prints the seed of a failure). */
import '../addon/private-namespaces.js';
import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { suite } from '../suite.js';
import { readEthernet } from './packets.js';
import { BINDING, careOfBench, frame, homeBench, request, request6 } from './scene.js';
import { addressOf, entropyOf, kinds, readTunnel } from './tunnels.js';

const home = homeBench();
const careOf = careOfBench().bind(BINDING, { action: 'deliver' });
const common = {
  fromPort: fc.integer({ min: 1, max: 0xffff }),
  flags: fc.constantFrom('S', 'A', 'PA', 'FA', 'R'),
  payload: fc.uint8Array({ maxLength: 1300 }),
};
const byte = fc.integer({ min: 0, max: 255 });
const packets = fc.oneof(
  fc.record({ ...common, tos: byte, ttl: byte, id: fc.nat(0xffff), df: fc.boolean() }).map((fields) => request(fields)),
  fc
    .record({ ...common, trafficClass: byte, hopLimit: byte, flowLabel: fc.nat(0xfffff) })
    .map((fields) => request6(fields)),
);

for (const program of ['hp_xdp', 'hp_ingress'] as const) {
  const test = suite(`tunnels of ${program}`);
  for (const kind of kinds) {
    test(`${kind.name}: encapsulated and decapsulated again it is the same packet, in a valid outer one`, () => {
      const { encapsulation } = kind;
      home.bind(BINDING, { action: 'tunnel', careOf: addressOf(kind, 'careOf'), encapsulation, mtu: 9000 });
      fc.assert(
        fc.property(packets, (packet) => {
          const sent = home.run(program, frame(packet));
          assert.is(sent.reason, 'tunnelled');
          const { outer, inner } = readTunnel(kind, sent.frame);
          assert.equal([outer.ttl, outer.df, outer.totalLength], [64, true, packet.length + kind.overhead]);
          assert.equal(inner, packet);
          assert.equal(entropyOf(kind, sent.frame), entropyOf(kind, home.run(program, frame(packet)).frame));
          const received = careOf.run(program, sent.frame);
          assert.is(received.reason, 'delivered');
          assert.equal(readEthernet(received.frame).payload, packet);
        }),
        { numRuns: 60 },
      );
    });
  }
  test.run();
}
