import { type BpfObject, htons, StructCodec } from '../../addon/lib/index.js';
import type { FlowEntryStruct, FlowKeyStruct, PortEntryStruct, PortKeyStruct } from './abi.gen.js';
import { decodeAddress, encodeAddress } from './address.js';
import type { FastPlace } from './fast-path.js';

const PROTOCOLS = { tcp: 6, udp: 17 } as const;

/** A local port in the home's address space. */
export interface LocalPort {
  readonly protocol: 'tcp' | 'udp';
  readonly address: string;
  readonly port: number;
}

/** An exact flow on a port. */
export interface Flow {
  readonly protocol: 'tcp' | 'udp';
  readonly local: { readonly address: string; readonly port: number };
  readonly remote: { readonly address: string; readonly port: number };
}

/** The form of what is in the maps `ports` and `flows`. */
export class FlowKeys {
  private readonly portKey: StructCodec;
  private readonly portValue: StructCodec;
  private readonly flowKey: StructCodec;
  private readonly flowValue: StructCodec;

  constructor({ btf }: BpfObject) {
    this.portKey = new StructCodec(btf, 'port_key');
    this.portValue = new StructCodec(btf, 'port_entry');
    this.flowKey = new StructCodec(btf, 'flow_key');
    this.flowValue = new StructCodec(btf, 'flow_entry');
  }

  encodePort({ protocol, address, port }: LocalPort): Buffer {
    const key: PortKeyStruct = { local: encodeAddress(address), port: htons(port), protocol: PROTOCOLS[protocol] };
    return this.portKey.encode(key);
  }

  decodePort(key: Uint8Array): LocalPort {
    const { local, port, protocol } = this.portKey.decode(key) as PortKeyStruct;
    return { protocol: protocol === PROTOCOLS.udp ? 'udp' : 'tcp', address: decodeAddress(local), port: htons(port) };
  }

  /** Where the fast path's copy of a port's entry is. */
  fastPlace(key: Uint8Array): FastPlace {
    const { local, port, protocol } = this.portKey.decode(key) as PortKeyStruct;
    return { protocol: protocol === PROTOCOLS.udp ? 'udp' : 'tcp', port: htons(port), local };
  }

  encodePortEntry(entry: PortEntryStruct): Buffer {
    return this.portValue.encode(entry);
  }

  decodePortEntry(value: Uint8Array): PortEntryStruct {
    return this.portValue.decode(value) as PortEntryStruct;
  }

  encodeFlow({ protocol, local, remote }: Flow): Buffer {
    const key: FlowKeyStruct = {
      local: encodeAddress(local.address),
      remote: encodeAddress(remote.address),
      local_port: htons(local.port),
      remote_port: htons(remote.port),
      protocol: PROTOCOLS[protocol],
    };
    return this.flowKey.encode(key);
  }

  /** Key of the port of a flow's local end. */
  portOfFlow(key: Uint8Array): Buffer {
    const { local, local_port, protocol } = this.flowKey.decode(key) as FlowKeyStruct;
    return this.portKey.encode({ local, port: local_port, protocol } satisfies PortKeyStruct);
  }

  encodeFlowEntry(entry: FlowEntryStruct): Buffer {
    return this.flowValue.encode(entry);
  }

  decodeFlowEntry(value: Uint8Array): FlowEntryStruct {
    return this.flowValue.decode(value) as FlowEntryStruct;
  }
}
