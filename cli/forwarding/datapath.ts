import { closeSync, mkdirSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { BpfObject, flock } from '../../addon/lib/index.js';
import { UserError } from '../errors.js';
import { readLink } from '../system/ip.js';
import { DeviceRole, type DeviceStruct } from './abi.gen.js';
import { addressBytes } from './address.js';
import {
  type AttachChoice,
  attachFilter,
  attachUplink,
  detachFilter,
  detachUplink,
  type UplinkStatus,
} from './attachments.js';
import { type BindingTotals, type CounterRow, readBindingCounters, readCounters } from './counters.js';
import { DatapathEvents } from './events.js';
import { Tables } from './tables.js';

export interface DatapathOptions {
  readonly objectPath: string;
  /** Folder in a bpffs that is ours alone. */
  readonly pins: string;
  /** Root-only folder for the lock and for what we must put back. */
  readonly run: string;
  readonly nodeAddress: string;
  readonly uplinks: readonly { readonly interface: string; readonly attach: AttachChoice }[];
  /** Most flows on shared ports; default one million. What is pinned keeps the size that it was made with. */
  readonly flowCapacity?: number;
}

/**
 * The programs and maps of this node. Everything is pinned: when the daemon ends, or is killed, packets go on as the maps
 * say, and the next `open` adopts what is there and replaces the programs between two packets.
 */
export class Datapath {
  readonly tables: Tables;
  /** What the programs report about single packets. */
  readonly events: DatapathEvents;
  private constructor(
    private readonly object: BpfObject,
    private readonly options: DatapathOptions,
    private readonly uplinks: readonly UplinkStatus[],
    private readonly lock: number,
  ) {
    this.tables = new Tables(object);
    this.events = new DatapathEvents(object);
  }

  /**
   * Loads or adopts the datapath and attaches it to the uplinks.
   * @throws {UserError} `DATAPATH_LOCKED`, `XDP_TAKEN`, `TC_TAKEN`; {BpfError} what the kernel said.
   */
  static async open(options: DatapathOptions): Promise<Datapath> {
    const lock = takeLock(options.run);
    let object: BpfObject | undefined;
    try {
      mkdirSync(join(options.pins, 'maps'), { recursive: true, mode: 0o700 });
      object = BpfObject.open(options.objectPath, {
        rodata: {
          node_address: addressBytes(options.nodeAddress),
          transmit_in_place: (await anyVeth(options)) ? 0 : 1,
        },
        pinDirectory: join(options.pins, 'maps'),
        ...(options.flowCapacity === undefined ? {} : { mapSizes: { flows: options.flowCapacity } }),
      }).load();
      refreshFastPath(object);
      const uplinks: UplinkStatus[] = [];
      for (const { interface: name, attach } of options.uplinks) {
        uplinks.push(await attachUplink(object, options, name, attach));
      }
      const datapath = new Datapath(object, options, uplinks, lock);
      datapath.refreshDevices();
      return datapath;
    } catch (error) {
      object?.close();
      closeSync(lock);
      throw error;
    }
  }

  /** Where the programs are attached, how, and why so. */
  status(): readonly UplinkStatus[] {
    return this.uplinks;
  }

  /** Gives a device to a binding: a pod's veth (what enters was sent by the process) or a twin's TAP (what enters is replayed). */
  addDevice(ifindex: number, binding: number, role: 'pod' | 'park'): void {
    this.tables.devices.put(ifindex, { binding, role: DeviceRole[role] });
    attachFilter(this.object, this.options, ifindex, 'ingress', role === 'pod' ? 'hp_pod' : 'hp_replay');
  }

  /** Forgets a device; its filter goes with it when it is deleted. */
  removeDevice(ifindex: number): void {
    this.tables.devices.delete(ifindex);
    rmSync(join(this.options.run, `clsact-${ifindex}`), { force: true });
  }

  /** Packets and bytes by hook and reason, summed over the CPUs. */
  counters(): CounterRow[] {
    return readCounters(this.tables);
  }

  /** Packets and bytes of one binding by reason. */
  bindingCounters(binding: number): BindingTotals {
    return readBindingCounters(this.tables, binding);
  }

  /** Takes everything off and removes pins and maps. @returns what was removed, in words. */
  async detach(): Promise<string[]> {
    const removed: string[] = [];
    for (const uplink of this.uplinks) {
      removed.push(...(await detachUplink(this.options, uplink.interface, uplink.ifindex)));
    }
    for (const [ifindex] of this.tables.devices.entries()) {
      if (detachFilter(ifindex, 'ingress')) removed.push(`tc program of device ${ifindex}`);
      this.removeDevice(ifindex);
    }
    rmSync(this.options.pins, { recursive: true, force: true });
    return [...removed, `pinned maps in ${this.options.pins}`];
  }

  /** Lets go of our descriptors; attached programs and pinned maps stay. */
  close(): void {
    this.events.close();
    this.tables.close();
    this.object.close();
    closeSync(this.lock);
  }

  /** After an adoption the devices' filters still run the previous daemon's programs. */
  private refreshDevices(): void {
    for (const [ifindex, { role }] of this.tables.devices.entries() as Iterable<[number, DeviceStruct]>) {
      try {
        const program = role === DeviceRole.pod ? 'hp_pod' : 'hp_replay';
        attachFilter(this.object, this.options, ifindex, 'ingress', program);
      } catch (error) {
        if ((error as { code?: string }).code !== 'ENODEV') throw error;
        this.removeDevice(ifindex); // a TAP that ended with the previous daemon
      }
    }
  }
}

async function anyVeth({ uplinks }: DatapathOptions): Promise<boolean> {
  const links = await Promise.all(uplinks.map((uplink) => readLink(uplink.interface)));
  return links.some((link) => link.linkinfo?.info_kind === 'veth');
}

function refreshFastPath(object: BpfObject): void {
  const tables = new Tables(object);
  tables.copyToFastPath();
  tables.close();
}

function takeLock(run: string): number {
  mkdirSync(run, { recursive: true, mode: 0o700 });
  const fd = openSync(join(run, 'datapath.lock'), 'a', 0o600);
  if (flock(fd, 'exclusive', true)) return fd;
  closeSync(fd);
  throw new UserError({
    code: 'DATAPATH_LOCKED',
    message: "another process is working on this node's datapath",
    remedy: 'is another daemon running? see `homeproxy status`',
    exitStatus: 7,
  });
}
