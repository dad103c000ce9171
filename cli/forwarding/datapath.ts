import { closeSync, existsSync, mkdirSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { BpfObject, flock, htons } from '../../addon/lib/index.js';
import { UserError } from '../errors.js';
import { readLink } from '../system/ip.js';
import { DeviceRole, type DeviceStruct } from './abi.gen.js';
import { addressBytes } from './address.js';
import type { AttachmentFolders } from './attachment-folders.js';
import { attachUplink, requireFree, type UplinkStatus } from './attachments.js';
import { Changes } from './changes.js';
import { attachClassifier, chooseClassifier } from './classifier.js';
import { type BindingTotals, type CounterRow, readBindingCounters, readCounters } from './counters.js';
import { GUE_PORT } from './encapsulation.js';
import { DatapathEvents } from './events.js';
import type { AttachChoice } from './hook-choice.js';
import { leaveLoopback, prepareLoopback, watchLoopback } from './loopback.js';
import { finishPinned } from './pinned-link.js';
import { ownMapIds, PinnedMaps } from './pinned-maps.js';
import { type PodPrograms, pinPodPrograms } from './pod-programs.js';
import { removeDatapath, removeFromOthers } from './removal.js';
import { Tables } from './tables.js';
import { attachFilter, clsactMark } from './tc-filter.js';
import { forgetAllGone, forgetTcx } from './tcx.js';

/** `pins`: a folder in a bpffs that is ours alone. `run`: a root-only one, for the lock too. */
export interface DatapathOptions extends AttachmentFolders {
  readonly objectPath: string;
  readonly nodeAddress: string;
  /** The node's address of the other family: tunnels to it are accepted as well. */
  readonly otherAddress?: string;
  /** UDP port on which tunnels are accepted; default GUE's. */
  readonly tunnelPort?: number;
  readonly uplinks: readonly { readonly interface: string; readonly attach: AttachChoice }[];
  /** Most flows on shared ports; default one million. */
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
  /** The last change of what `lo` has of ours; one at a time. */
  private loopback: Promise<void> = Promise.resolve();
  /** Interfaces that were given up and may still be there: what is pinned of them goes after them. */
  private readonly leaving = new Set<number>();

  private constructor(
    private readonly object: BpfObject,
    private readonly options: DatapathOptions,
    private uplinks: readonly UplinkStatus[],
    private readonly lock: number,
  ) {
    this.tables = new Tables(object);
    this.events = new DatapathEvents(object);
  }

  /**
   * Loads the datapath and attaches it to the uplinks. What a previous daemon left goes on working until it is replaced between
   * two packets: its maps are adopted, or their content is taken over. When anything fails, it is as before: the old programs
   * are attached, to all interfaces.
   * @throws {UserError} `DATAPATH_LOCKED`, `XDP_TAKEN`, `TC_TAKEN`, `LAYOUT_UNKNOWN`, `LAYOUT_UNFIT`, `LAYOUT_BUSY`;
   * {BpfError} what the kernel said.
   */
  static async open(options: DatapathOptions): Promise<Datapath> {
    const lock = takeLock(options.run);
    const changes = new Changes();
    let object: BpfObject | undefined;
    let maps: PinnedMaps | undefined;
    let datapath: Datapath | undefined;
    try {
      finishPinned(options.pins);
      for (const { interface: name, attach } of options.uplinks) requireFree(options, await readLink(name), attach);
      object = BpfObject.open(options.objectPath, {
        rodata: {
          node_address: addressBytes(options.nodeAddress),
          ...(options.otherAddress === undefined ? {} : { other_address: addressBytes(options.otherAddress) }),
          tunnel_port: htons(options.tunnelPort ?? GUE_PORT),
          transmit_in_place: (await anyVeth(options)) ? 0 : 1,
        },
        ...(options.flowCapacity === undefined ? {} : { mapSizes: { flows: options.flowCapacity } }),
      });
      maps = PinnedMaps.adopt(options.pins, object);
      object.load();
      maps.stage();
      refreshFastPath(object, maps);
      const byTcx = chooseClassifier(options).by === 'tcx';
      if (byTcx) maps.announceTcx();
      const uplinks: UplinkStatus[] = [];
      for (const { interface: name, attach } of options.uplinks) {
        uplinks.push(await attachUplink(object, options, name, attach, changes));
      }
      const opened = new Datapath(object, options, uplinks, lock);
      datapath = opened;
      opened.refreshDevices(changes);
      changes.atLast(() => opened.nameOutlets());
      prepareLoopback(object, options, changes);
      changes.atLast(() => pinPodPrograms(object as BpfObject, options.pins));
      const owned = ownMapIds(options.pins);
      changes.atLast(() => removeFromOthers(options, uplinks, owned));
      changes.atLast(() => forgetAllGone(options));
      maps.commit(byTcx);
    } catch (error) {
      await changes.takeBack();
      maps?.abandon();
      if (datapath === undefined) {
        object?.close();
        closeSync(lock);
      } else datapath.close();
      throw error;
    } finally {
      maps?.close();
    }
    try {
      await changes.keep();
      return datapath;
    } catch (error) {
      datapath.close(); // what is attached by now is complete
      throw error;
    }
  }

  /** Takes off and removes what a daemon left that does not run any more. @throws {UserError} `DATAPATH_LOCKED` when it does. */
  static async removeLeft(folders: { readonly pins: string; readonly run: string }): Promise<string[]> {
    if (!existsSync(folders.run) && !existsSync(folders.pins)) return [];
    const lock = takeLock(folders.run);
    try {
      return await removeDatapath(folders);
    } finally {
      closeSync(lock);
    }
  }

  /** Where the programs are attached, how, and why so. */
  status(): readonly UplinkStatus[] {
    return this.uplinks;
  }

  /** An uplink is no more: see {@link returned}. */
  gone(name: string): void {
    this.change(name, { ifindex: 0, reason: 'the interface is gone; it gets the programs again when it is back' });
  }

  /**
   * Attaches to an uplink that is there again, as another interface of the same name: tc before this returns a promise, so
   * that the kernel answers for nobody in the meantime.
   * @throws {UserError} `XDP_TAKEN`, `TC_TAKEN`; {BpfError} what the kernel said: status has it, too.
   */
  async returned(name: string, ifindex: number): Promise<UplinkStatus> {
    const { attach = 'auto' } = this.options.uplinks.find((uplink) => uplink.interface === name) ?? {};
    const changes = new Changes();
    try {
      attachClassifier(this.object, this.options, ifindex, 'ingress', 'hp_ingress', changes);
      attachClassifier(this.object, this.options, ifindex, 'egress', 'hp_egress', changes);
      requireFree(this.options, await readLink(name), attach);
      const status = await attachUplink(this.object, this.options, name, attach, changes);
      await changes.keep();
      const reason = `${status.reason}; it was gone, and came back`;
      this.change(name, { ...status, reason });
      return status;
    } catch (error) {
      await changes.takeBack();
      this.change(name, { ifindex: 0, reason: `not attached since it came back: ${(error as Error).message}` });
      throw error;
    }
  }

  private change(name: string, status: Partial<UplinkStatus>): void {
    const old = this.uplinks.find((uplink) => uplink.interface === name);
    if (old === undefined) return;
    if (old.ifindex !== 0 && old.ifindex !== status.ifindex) this.forget(old.ifindex);
    this.uplinks = this.uplinks.map((uplink) => (uplink === old ? { ...old, ...status } : uplink));
    this.nameOutlets();
  }

  /** A driver that runs a native program takes frames from another one; of any other interface that is not known. */
  private nameOutlets(): void {
    const native = this.uplinks.filter(({ mode, ifindex }) => mode === 'xdp-native' && ifindex !== 0);
    this.tables.setOutlets(native.map(({ ifindex }) => ifindex));
  }

  /** Gives a device to a binding: a pod's veth (what enters was sent by the process) or a twin's TAP (what enters is replayed). */
  addDevice(ifindex: number, binding: number, role: 'pod' | 'park'): void {
    this.leaving.delete(ifindex);
    this.tables.devices.put(ifindex, { binding, role: DeviceRole[role] });
    this.attachDevice(ifindex, role);
  }

  /** A twin's is a filter in any case: few packets are replayed, and tcx takes 10 ms (tcx_entry_sync), 8 more when the TAP goes. */
  private attachDevice(ifindex: number, role: 'pod' | 'park', changes = new Changes()): void {
    if (role === 'pod') attachClassifier(this.object, this.options, ifindex, 'ingress', 'hp_pod', changes);
    else attachFilter(this.object, this.options, ifindex, 'ingress', 'hp_replay', changes);
  }

  /** Forgets a device; its program goes with it when it is deleted, and until then lets nothing pass. */
  removeDevice(ifindex: number): void {
    this.tables.devices.delete(ifindex);
    this.forget(ifindex);
  }

  private forget(ifindex: number): void {
    rmSync(clsactMark(this.options, ifindex), { force: true });
    this.leaving.add(ifindex);
    for (const each of this.leaving) if (forgetTcx(this.options, each)) this.leaving.delete(each);
  }

  /** @param needed a process of this node is away: its correspondents here speak with it over `lo` */
  async useLoopback(needed: boolean): Promise<void> {
    this.loopback = this.loopback
      .catch(() => undefined)
      .then(() => (needed ? watchLoopback(this.object, this.options) : leaveLoopback(this.options)));
    await this.loopback;
  }

  /** What a pod needs to get its programs. */
  get podPrograms(): PodPrograms {
    return { pins: this.options.pins, classifier: chooseClassifier(this.options).by };
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
    return removeDatapath(this.options);
  }

  /** Lets go of our descriptors; attached programs and pinned maps stay. */
  close(): void {
    this.events.close();
    this.tables.close();
    this.object.close();
    closeSync(this.lock);
  }

  /** After an adoption the devices' filters still run the previous daemon's programs. */
  private refreshDevices(changes: Changes): void {
    for (const [ifindex, { role }] of this.tables.devices.entries() as Iterable<[number, DeviceStruct]>) {
      try {
        this.attachDevice(ifindex, role === DeviceRole.pod ? 'pod' : 'park', changes);
      } catch (error) {
        if ((error as { code?: string }).code !== 'ENODEV') throw error;
        changes.atLast(() => this.removeDevice(ifindex)); // a TAP that ended with the previous daemon
      }
    }
  }
}

async function anyVeth({ uplinks }: DatapathOptions): Promise<boolean> {
  const links = await Promise.all(uplinks.map((uplink) => readLink(uplink.interface)));
  return links.some((link) => link.linkinfo?.info_kind === 'veth');
}

function refreshFastPath(object: BpfObject, maps: PinnedMaps): void {
  const tables = new Tables(object);
  tables.copyToFastPath();
  if (!maps.had('fast_flows')) tables.copyFlowsToFastPath();
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
