/** Who is known to the nodes of packet/fast-path, and the packets that they meet. */
import { Action, type BindingStruct, Egress } from '../../cli/forwarding/abi.gen.js';
import { encodeAddress } from '../../cli/forwarding/address.js';
import { tunnelFields } from '../../cli/forwarding/encapsulation.js';
import { pick } from '../fault/chance.js';
import { ethernet, ipv4, MAC, tcp, udp } from './packets.js';
import { CARE_OF, CORRESPONDENT, frame, HOME, OTHER_NODE, STRANGER, tunnelled } from './scene.js';

/** A process that is away, behind a next hop that is known: what the fast paths serve. */
export const away: BindingStruct = {
  epoch: 1,
  action: Action.tunnel,
  egress: Egress.shut,
  draining: 0,
  hold: 0,
  park_ifindex: 11,
  uplink_ifindex: 1,
  pod_ifindex: 13,
  pod_mac: Buffer.from('020000000f01', 'hex'),
  host_mac: Buffer.from('020000000f02', 'hex'),
  ...tunnelFields({ to: CARE_OF, encapsulation: 'ip' }),
  node: encodeAddress(HOME),
  home: encodeAddress(HOME),
  next_hop: {
    ifindex: 1,
    mtu: 1500,
    resolved: 1,
    source: Buffer.from(MAC.home.replaceAll(':', ''), 'hex'),
    destination: Buffer.from(MAC.careOf.replaceAll(':', ''), 'hex'),
  },
};

export const SECOND_HOME = '10.0.0.22';
export const OWN = { port: 80, binding: 1 };
export const SHARED = { port: 81, binding: 2, remotePort: 1000 };
export const TWICE = { port: 82, binding: 3, other: 4 };
export const PARKED = { port: 83, binding: 5 };
export const DRAINING = { port: 84, binding: 6 };
export const HOLDING = { port: 85, binding: 7 };
export const UNRESOLVED = { port: 86, binding: 8 };
/** Where a pod's packets for its home go, see bpf/homeward.h. */
const HOMEWARD = Buffer.from('02686f6d6500', 'hex');
/** Guests: processes of another home, in pods here. */
export const GUEST_HOME = '10.9.0.2';
export const GUEST = { port: 87, binding: 9 };
export const SHARED_GUEST = { port: 88, binding: 10 };
export const HELD_GUEST = { port: 89, binding: 11 };
export const SHUT_GUEST = { port: 90, binding: 12 };
export const WAITING_GUEST = { port: 91, binding: 13 };
export const REVERSING_GUEST = { port: 92, binding: 14 };
export const GUESTS = [GUEST, SHARED_GUEST, HELD_GUEST, SHUT_GUEST, WAITING_GUEST, REVERSING_GUEST];

/** A packet of some kind, often with a flaw or two; what leaves has its ends exchanged. */
export function mutated(random: () => number, program: string): Buffer {
  // tc answers what is too big, so many a second: what it counts would depend on the time.
  const packet = Buffer.from(whole(random, program));
  if (program === 'hp_egress' || program === 'hp_pod') {
    exchange(packet, 26, 30, 4);
    exchange(packet, 34, 36, 2);
    if (random() < 0.05) packet.set(HOMEWARD);
  }
  for (let flaws = pick([0, 0, 1, 1, 2], random); flaws > 0; flaws--) {
    packet[Math.floor(random() * Math.min(packet.length, 84))] = Math.floor(random() * 256);
  }
  if (random() < 0.1) return packet.subarray(0, Math.max(14, Math.floor(random() * packet.length)));
  return random() < 0.2 ? Buffer.concat([packet, Buffer.alloc(Math.floor(random() * 20))]) : packet;
}

/** Exchanges two fields of a frame. */
function exchange(bytes: Buffer, one: number, other: number, size: number): void {
  const kept = Buffer.from(bytes.subarray(one, one + size));
  bytes.copyWithin(one, other, other + size);
  kept.copy(bytes, other);
}

function whole(random: () => number, program: string): Buffer {
  const toGuest = random() < (program === 'hp_pod' ? 0.9 : 0.4);
  const known = toGuest ? GUESTS : [OWN, SHARED, TWICE, PARKED, DRAINING, HOLDING, UNRESOLVED];
  const port = random() < 0.8 ? pick(known, random).port : Math.floor(random() * 65_536);
  const anyPort = random() < 0.3 ? pick(GUESTS, random).port : 1 + Math.floor(random() * 65_535);
  const fromPort = random() < 0.5 ? SHARED.remotePort : anyPort;
  const most = program === 'hp_xdp' ? 1460 : 1300;
  const payload = Buffer.alloc(random() < 0.1 ? most - Math.floor(random() * 30) : Math.floor(random() * 40));
  const segment =
    random() < 0.3
      ? udp(fromPort, port, payload)
      : tcp({
          sourcePort: fromPort,
          destinationPort: port,
          flags: pick(['A', 'PA', 'S', 'SA', 'FA', 'R'], random),
          payload,
        });
  const tos = Math.floor(random() * 256);
  const homes = [HOME, HOME, HOME, SECOND_HOME, '10.0.0.77'];
  const packet = ipv4(
    {
      source: pick([CORRESPONDENT, CORRESPONDENT, CORRESPONDENT, HOME, GUEST_HOME, '127.0.0.1'], random),
      destination: pick(toGuest ? [GUEST_HOME, GUEST_HOME, GUEST_HOME, '127.0.0.1', HOME] : homes, random),
      tos,
      ttl: 1 + Math.floor(random() * 255),
      df: random() < 0.5,
      mf: random() < 0.05,
      ...(random() < 0.1 ? { options: Buffer.alloc(4, 1) } : {}),
    },
    segment,
  );
  if (random() < (toGuest && program !== 'hp_pod' && program !== 'hp_egress' ? 0.8 : 0.1)) {
    const source = pick([OTHER_NODE, OTHER_NODE, OTHER_NODE, CARE_OF, STRANGER], random);
    const outer = { source, destination: HOME, ...(random() < 0.3 ? { tos: tos ^ pick([1, 2, 3, 4], random) } : {}) };
    return ethernet({}, tunnelled(packet, outer));
  }
  return random() < 0.03 ? ethernet({ type: 0x86dd }, packet) : frame(packet);
}
