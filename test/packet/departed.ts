import { Action, type BindingStruct, Egress, type NextHopStruct } from '../../cli/forwarding/abi.gen.js';
import { encodeAddress } from '../../cli/forwarding/address.js';
import { tunnelFields } from '../../cli/forwarding/encapsulation.js';
import { HOME } from './live-addresses.js';

/** What a home node binds to a process that is away, before its own choices: to the tunnel, by IP-in-IP. */
export function departed(uplink_ifindex: number, to: string, next_hop: NextHopStruct): BindingStruct {
  return {
    epoch: 1,
    action: Action.tunnel,
    egress: Egress.shut,
    draining: 0,
    hold: 0,
    park_ifindex: 0,
    uplink_ifindex,
    pod_ifindex: 0,
    pod_mac: Buffer.alloc(6),
    host_mac: Buffer.alloc(6),
    ...tunnelFields({ to, encapsulation: 'ip' }),
    node: encodeAddress(HOME),
    home: encodeAddress(HOME),
    next_hop,
  };
}
