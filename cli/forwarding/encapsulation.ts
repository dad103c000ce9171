import { isIPv6 } from 'node:net';
import { htons } from '../../addon/lib/index.js';
import { type BindingStruct, Encapsulation } from './abi.gen.js';
import { encodeAddress } from './address.js';

/** What is around a packet in a tunnel: an IP header alone, or IP and UDP (GUE variant 1). */
export type EncapsulationName = keyof typeof Encapsulation;

/** IANA's UDP port for Generic UDP Encapsulation. */
export const GUE_PORT = 6080;

const IPV4_BYTES = 20;
const IPV6_BYTES = 40;
const UDP_BYTES = 8;

/** A tunnel to a care-of host. */
export interface Tunnel {
  /** The care-of address; its family is that of the outer header. */
  readonly to: string;
  readonly encapsulation: EncapsulationName;
  /** UDP port on which the care-of host expects tunnels; default GUE's. */
  readonly port?: number;
}

/** Bytes that a tunnel puts before a packet (RFC 2003, RFC 2473); the datapath's `overhead` says the same. */
export function tunnelOverhead({ to, encapsulation }: Omit<Tunnel, 'port'>): number {
  return (isIPv6(to) ? IPV6_BYTES : IPV4_BYTES) + (encapsulation === 'udp' ? UDP_BYTES : 0);
}

/** The fields of a binding that say how its packets are tunnelled. */
export function tunnelFields({
  to,
  encapsulation,
  port = GUE_PORT,
}: Tunnel): Pick<BindingStruct, 'care_of' | 'encapsulation' | 'tunnel_port'> {
  return { care_of: encodeAddress(to), encapsulation: Encapsulation[encapsulation], tunnel_port: htons(port) };
}
