/** Laws that hold for every packet, tried with packets at random (fast-check prints the seed of a failure). */
import '../addon/private-namespaces.js';
import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { suite } from '../suite.js';
import type { BindingFields, Outcome, ProgramName } from './bench.js';
import { Ecn, ethernet, type Ipv4Packet, MAC, readEthernet, readIpv4 } from './packets.js';
import { BINDING, CARE_OF, careOfBench, frame, HOME, homeBench, request, tunnelled } from './scene.js';

const away: BindingFields = { action: 'tunnel', egress: 'shut', careOf: CARE_OF, mtu: 9000 };
const here: BindingFields = { action: 'deliver' };
const home = homeBench().bind(BINDING, away);
const careOf = careOfBench().bind(BINDING, here);
const OUTER_TOS_OFFSET = 15;

/** A valid request: any TOS, TTL, id, options, flags and payload. */
const packets = fc
  .record({
    tos: fc.integer({ min: 0, max: 255 }),
    ttl: fc.integer({ min: 1, max: 255 }),
    id: fc.integer({ min: 0, max: 0xffff }),
    df: fc.boolean(),
    fromPort: fc.integer({ min: 1, max: 0xffff }),
    flags: fc.constantFrom('S', 'A', 'PA', 'FA', 'R'),
    options: fc.integer({ min: 0, max: 10 }).map((words) => Buffer.alloc(4 * words, 1)),
    payload: fc.uint8Array({ maxLength: 1300 }),
  })
  .map((fields) => request(fields));

const programs = ['hp_xdp', 'hp_ingress'] as const satisfies readonly ProgramName[];

function innerOf(outcome: Outcome): { outer: Ipv4Packet; inner: Buffer } {
  const outer = readIpv4(readEthernet(outcome.frame).payload);
  return { outer, inner: outer.payload };
}

/** RFC 6040, figure 4: inner by row, outer by column, in the order of the codepoints; undefined: drop. */
const DECAPSULATED = [
  [Ecn.notEct, Ecn.notEct, Ecn.notEct, undefined],
  [Ecn.ect1, Ecn.ect1, Ecn.ect1, Ecn.ce],
  [Ecn.ect0, Ecn.ect1, Ecn.ect0, Ecn.ce],
  [Ecn.ce, Ecn.ce, Ecn.ce, Ecn.ce],
] as const;

for (const program of programs) {
  const test = suite(`properties of ${program}`);

  test('what is encapsulated and decapsulated again is the same packet', () => {
    fc.assert(
      fc.property(packets, (packet) => {
        const sent = home.run(program, frame(packet));
        assert.is(sent.reason, 'tunnelled');
        const received = careOf.run(program, sent.frame);
        assert.is(received.reason, 'delivered');
        assert.equal(readEthernet(received.frame).payload, packet);
      }),
      { numRuns: 200 },
    );
  });

  test('the outer header is valid: checksum, length, own TTL, DF, TOS of the inner, nodes as ends', () => {
    fc.assert(
      fc.property(packets, (packet) => {
        const { outer, inner } = innerOf(home.run(program, frame(packet)));
        assert.equal([outer.source, outer.destination, outer.protocol], [HOME, CARE_OF, 4]);
        assert.equal([outer.ttl, outer.df, outer.tos], [64, true, packet[1]]);
        assert.is(outer.totalLength, packet.length + 20);
        assert.equal(inner, packet);
      }),
      { numRuns: 200 },
    );
  });

  test('ECN leaves the tunnel as RFC 6040 says, DSCP untouched, checksum right', () => {
    fc.assert(
      fc.property(packets, fc.integer({ min: 0, max: 255 }), (packet, outerTos) => {
        const innerTos = packet[1] ?? 0;
        const expected = DECAPSULATED[innerTos & 3]?.[outerTos & 3];
        const { verdict, reason, frame: out } = careOf.run(program, frame(tunnelled(packet, { tos: outerTos })));
        if (expected === undefined) {
          assert.equal([verdict, reason], ['drop', 'congested']);
          return;
        }
        const received = readIpv4(readEthernet(out).payload);
        assert.is(received.tos, (innerTos & 0xfc) | expected);
      }),
      { numRuns: 300 },
    );
  });

  test('the checksum stays right where its change carries twice (RFC 1624)', () => {
    const ids = Array.from({ length: 0x10000 }, (_, id) => id).filter((id) => {
      const header = request({ tos: Ecn.ect0, id });
      const [sum, before, after] = [header.readUInt16LE(10), 0x45 | (Ecn.ect0 << 8), 0x45 | (Ecn.ce << 8)];
      return (sum ^ 0xffff) + (before ^ 0xffff) + after === 0x1ffff;
    });
    assert.ok(ids.length > 0);
    for (const id of ids) {
      const { frame: out } = careOf.run(program, frame(tunnelled(request({ tos: Ecn.ect0, id }), { tos: Ecn.ce })));
      assert.is(readIpv4(readEthernet(out).payload).tos, Ecn.ce);
    }
  });

  test('any bytes are counted exactly once, and never dropped unless they are for a bound process', () => {
    const headers = fc.constantFrom(
      ...[frame(request()), frame(tunnelled(request())), ethernet({ source: MAC.home }, Buffer.alloc(0))],
    );
    fc.assert(
      fc.property(headers, fc.uint8Array({ minLength: 20, maxLength: 200 }), fc.nat(100), (head, noise, keep) => {
        const bytes = Buffer.concat([head.subarray(0, 14 + keep), noise]);
        if (bytes.length < 34) return;
        for (const bench of [home, careOf]) {
          const { verdict, binding } = bench.run(program, bytes);
          if (binding.size === 0) assert.is(verdict, 'pass');
        }
      }),
      { numRuns: 500 },
    );
  });

  test('a packet cut off anywhere is passed as it came', () => {
    const whole = frame(tunnelled(request()));
    for (let length = 34; length < whole.length; length++) {
      const cut = whole.subarray(0, length);
      const { verdict, reason, frame: out } = careOf.run(program, cut);
      assert.equal([verdict, reason], ['pass', 'malformed'], `${length} bytes`);
      assert.equal(out, cut);
    }
  });

  test('one changed bit of a tunnelled packet never crashes and never reaches a pod under another address', () => {
    const whole = frame(tunnelled(request()));
    for (let bit = 14 * 8; bit < 14 * 8 + 60 * 8; bit++) {
      const changed = Buffer.from(whole);
      changed[Math.floor(bit / 8)] = (changed[Math.floor(bit / 8)] ?? 0) ^ (1 << (bit % 8));
      const { reason, frame: out } = careOf.run(program, changed);
      if (reason === 'delivered') assert.equal(readEthernet(out).payload.subarray(16, 20), request().subarray(16, 20));
    }
  });

  test('changing the outer TOS changes nothing but the verdict on ECN', () => {
    for (let tos = 0; tos < 256; tos++) {
      const input = Buffer.from(frame(tunnelled(request({ tos: Ecn.ect0 }))));
      assert.is(input[OUTER_TOS_OFFSET], Ecn.ect0);
      const packet = frame(tunnelled(request({ tos: Ecn.ect0 }), { tos }));
      const { frame: out } = careOf.run(program, packet);
      assert.equal(readEthernet(out).payload.subarray(20), request().subarray(20));
    }
  });

  test.run();
}
