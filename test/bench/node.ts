import { BpfObject, type BpfProgram } from '../../addon/lib/index.js';
import { Action, type BindingStruct, DeviceRole, Egress } from '../../cli/forwarding/abi.gen.js';
import { addressBytes, encodeAddress, encodeMac } from '../../cli/forwarding/address.js';
import { tunnelFields } from '../../cli/forwarding/encapsulation.js';
import type { Flow } from '../../cli/forwarding/flow-keys.js';
import { Tables } from '../../cli/forwarding/tables.js';
import { projectFile } from '../../cli/system/project.js';
import {
  dotted,
  GUEST,
  GUEST_PORT,
  HOME,
  OTHER_NODE,
  OWN_PORT,
  OWN_PORTS,
  PARKED_PORT,
  remoteOf,
  SHARED_PORT,
} from './frames.js';
import { memlock } from './map-memory.js';

/** Interface 1, the loopback, is where test runs arrive; the others need not exist. */
const UPLINK = 1;
const POD = 77;
const TAP = 78;
const FLOWS_AT_ONCE = 20_000;
/** Where an IPv4 address lies in its mapped form. */
const MAPPED_IPV4 = 12;

const PRODUCT = 'bpf/build/homeproxy.bpf.o';
const STEPS = 'test/bench/build/steps.bpf.o';

/** Binding `own` is also ONLY_BINDING of steps.bpf.c. */
const Binding = { own: 1, shared: 2, parked: 3, guest: 4 } as const;

/** The steps that an encapsulation is taken apart into, each with all that stand before it. `hp_xdp` does all of them. */
export const STEP_PROGRAMS = ['step_route', 'step_filter', 'step_owner', 'step_count'] as const;
type ProgramName = (typeof STEP_PROGRAMS)[number] | 'hp_xdp' | 'hp_ingress' | 'hp_egress' | 'hp_pod' | 'hp_entry';

/** The product's programs with maps of their own, not attached to anything. */
export class Node {
  readonly tables: Tables;
  private readonly programs = new Map<string, BpfProgram>();

  private constructor(private readonly object: BpfObject) {
    this.tables = new Tables(object);
  }

  static load({ fastPath = true, path = PRODUCT }: { fastPath?: boolean; path?: string } = {}): Node {
    const rodata = { node_address: addressBytes(HOME), fast_path: fastPath ? 1 : 0 };
    return new Node(BpfObject.open(projectFile(path), { rodata }).load());
  }

  /** A node with a departed process and a guest, whose pod is behind the interface that test runs arrive on. */
  static withGuest(options: { readonly fastPath: boolean }): Node {
    const node = Node.load(options);
    node.tables.setNodes([OTHER_NODE]);
    node.tables.setLocalAddresses([HOME]);
    node.bind(Binding.own, 'tunnel');
    node.bind(Binding.guest, 'deliver');
    node.claim(Binding.own, HOME, OWN_PORT);
    node.claim(Binding.guest, GUEST, GUEST_PORT);
    node.tables.devices.put(UPLINK, { binding: Binding.guest, role: DeviceRole.pod });
    return node;
  }

  /** The steps of an encapsulation (steps.bpf.c), for one departed process on ports of its own. */
  static withSteps(): Node {
    const node = Node.load({ path: STEPS });
    node.bind(Binding.own, 'tunnel');
    for (let port = 0; port < OWN_PORTS; port++) node.claim(Binding.own, HOME, OWN_PORT + port);
    return node;
  }

  /**
   * A node with one departed process of `flows` connections on its own ports, one of as many on a shared port, one that is
   * frozen, and one that came here from another node.
   */
  static withFlows(flows: number): Node {
    const node = Node.load();
    node.tables.setNodes([OTHER_NODE]);
    node.bind(Binding.own, 'tunnel');
    node.bind(Binding.shared, 'tunnel');
    node.bind(Binding.parked, 'park');
    node.bind(Binding.guest, 'deliver');
    for (let port = 0; port < ownPorts(flows); port++) node.claim(Binding.own, HOME, OWN_PORT + port);
    node.claim(Binding.parked, HOME, PARKED_PORT);
    node.claim(Binding.guest, GUEST, GUEST_PORT);
    node.tables.claimPort({ protocol: 'tcp', address: HOME, port: SHARED_PORT }, Binding.shared, true);
    node.fillFlows(flows);
    return node;
  }

  /** A node with so many departed processes, each with a port of its own. */
  static withBindings(bindings: number): Node {
    const node = Node.load();
    for (let i = 0; i < bindings; i++) {
      const { address, port } = boundPort(i);
      node.tables.putBinding(i + 1, BINDING);
      node.claim(i + 1, address, port);
    }
    return node;
  }

  /** The controller writes the first flow; the others are copies with another remote end, in a tenth of the time. */
  private fillFlows(flows: number): void {
    this.tables.claimFlows([sharedFlow(0)], Binding.shared);
    const map = this.object.map('flows');
    try {
      const [first] = map.getBatch();
      if (first === undefined) throw new RangeError('the first flow is not in the table');
      const [key, value] = first;
      const fields = this.object.btf.struct('flow_key').fields;
      const at = (name: string): number => fields.find((field) => field.name === name)?.offset ?? Number.NaN;
      const [addressAt, portAt] = [at('remote') + MAPPED_IPV4, at('remote_port')];
      for (let from = 1; from < flows; from += FLOWS_AT_ONCE) {
        const entries = Array.from({ length: Math.min(FLOWS_AT_ONCE, flows - from) }, (_, i) => {
          const { address, port } = remoteOf(from + i);
          const copy = Buffer.from(key);
          copy.writeUInt32BE(address, addressAt);
          copy.writeUInt16BE(port, portAt);
          return [copy, value] as const;
        });
        map.setBatch(entries);
        this.tables.fastFlows.copy(
          entries.map(([copy]) => copy),
          Binding.shared,
        );
      }
    } finally {
      map.close();
    }
  }

  bind(id: number, action: 'tunnel' | 'park' | 'deliver'): void {
    this.tables.putBinding(id, {
      ...BINDING,
      action: Action[action],
      egress: action === 'deliver' ? Egress.open : Egress.shut,
    });
    this.tables.parkStates.put(id, { parked: 0n, replayed: 0n });
  }

  /** All that comes to the port belongs to the binding. */
  claim(id: number, address: string, port: number): void {
    this.tables.claimPort({ protocol: 'tcp', address, port }, id, false);
  }

  program(name: ProgramName): BpfProgram {
    const known = this.programs.get(name) ?? this.object.program(name);
    this.programs.set(name, known);
    return known;
  }

  /** Bytes by map. */
  mapBytes(): Map<string, number> {
    return new Map(
      this.object.maps.map((name) => {
        const map = this.object.map(name);
        try {
          return [name, memlock(map.fd)];
        } finally {
          map.close();
        }
      }),
    );
  }

  close(): void {
    for (const program of this.programs.values()) program.close();
    this.tables.close();
    this.object.close();
  }
}

/** An address of the node on which nobody who departed has a port. */
export const UNBOUND_HOME = '10.0.0.22';
const FIRST_BOUND_PORT = 1024;
const BOUND_PORTS = 28_000;

/** The port of the i-th process of {@link Node.withBindings}; when an address has no more, the next one's. */
export function boundPort(index: number): { readonly address: string; readonly port: number } {
  const address = `10.1.0.${1 + Math.floor(index / BOUND_PORTS)}`;
  return { address, port: FIRST_BOUND_PORT + (index % BOUND_PORTS) };
}

/** On how many ports a process with so many connections has them. */
export function ownPorts(flows: number): number {
  return Math.min(flows, OWN_PORTS);
}

const BINDING: BindingStruct = {
  epoch: 1,
  action: Action.tunnel,
  egress: Egress.shut,
  draining: 0,
  hold: 0,
  park_ifindex: TAP,
  uplink_ifindex: UPLINK,
  pod_ifindex: POD,
  pod_mac: encodeMac('02:00:00:00:0f:01'),
  host_mac: encodeMac('02:00:00:00:0f:02'),
  ...tunnelFields({ to: OTHER_NODE, encapsulation: 'ip' }),
  node: encodeAddress(HOME),
  home: encodeAddress(HOME),
  next_hop: {
    ifindex: UPLINK,
    mtu: 1500,
    resolved: 1,
    source: encodeMac('02:00:00:00:00:02'),
    destination: encodeMac('02:00:00:00:00:03'),
  },
};

function sharedFlow(flow: number): Flow {
  const { address, port } = remoteOf(flow);
  return {
    protocol: 'tcp',
    local: { address: HOME, port: SHARED_PORT },
    remote: { address: dotted(address), port },
  };
}
