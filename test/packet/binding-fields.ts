import ipaddr from 'ipaddr.js';
import { htons } from '../../addon/lib/index.js';
import { Action, type BindingStruct, Egress, Encapsulation, Hold } from '../../cli/forwarding/abi.gen.js';

/** The interface that test runs arrive on: the namespace's loopback. */
export const ARRIVAL_IFINDEX = 1;
export const OTHER_IFINDEX = 77;
/** One that takes no frames from XDP. */
export const BRIDGE_IFINDEX = 78;
/** Where every node of a bench expects UDP tunnels. */
export const TUNNEL_PORT = 6080;

export interface BindingFields {
  readonly action: keyof typeof Action;
  readonly egress?: keyof typeof Egress;
  readonly draining?: boolean;
  readonly hold?: keyof typeof Hold;
  readonly parkIfindex?: number;
  readonly careOf?: string;
  readonly node?: string;
  /** By which the process's loopback addresses go; the node's own, unless it says another. */
  readonly home?: string;
  readonly encapsulation?: keyof typeof Encapsulation;
  readonly mtu?: number;
  readonly resolved?: boolean;
  readonly nextHopIfindex?: number;
}

/** Four words as the datapath has them; of an IPv4 address the mapped form. */
export function addressWords(text: string): number[] {
  const bytes = text.includes(':')
    ? Buffer.from(ipaddr.IPv6.parse(text).toByteArray())
    : Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ...text.split('.').map(Number)]);
  return [0, 4, 8, 12].map(
    (offset) => new Uint32Array(Uint8Array.from(bytes.subarray(offset, offset + 4)).buffer)[0] ?? 0,
  );
}

function mac(text: string): Buffer {
  return Buffer.from(text.replaceAll(':', ''), 'hex');
}

/** @param other the node's own address of the other family, outer source of tunnels over that */
export function bindingOf(fields: BindingFields, node: string, other?: string): BindingStruct {
  const address = (text: string) => ({ word: addressWords(text) });
  return {
    epoch: 1,
    action: Action[fields.action],
    egress: Egress[fields.egress ?? 'open'],
    draining: fields.draining ? 1 : 0,
    hold: Hold[fields.hold ?? 'nothing'],
    park_ifindex: fields.parkIfindex ?? OTHER_IFINDEX,
    uplink_ifindex: ARRIVAL_IFINDEX,
    pod_ifindex: OTHER_IFINDEX,
    pod_mac: mac('02:00:00:00:0f:01'),
    host_mac: mac('02:00:00:00:0f:02'),
    care_of: address(fields.careOf ?? '10.0.0.3'),
    node: address(fields.node ?? (fields.careOf?.includes(':') ? (other ?? node) : node)),
    home: address(fields.home ?? node),
    encapsulation: Encapsulation[fields.encapsulation ?? 'ip'],
    tunnel_port: htons(TUNNEL_PORT),
    next_hop: {
      ifindex: fields.nextHopIfindex ?? ARRIVAL_IFINDEX,
      mtu: fields.mtu ?? 1500,
      resolved: fields.resolved === false ? 0 : 1,
      source: mac('02:00:00:00:00:02'),
      destination: mac('02:00:00:00:00:03'),
    },
  };
}
