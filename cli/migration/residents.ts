import { UserError } from '../errors.js';
import { keepFolder, keptFolder } from '../files/carried-folder.js';
import { wipeTree } from '../files/wipe.js';
import { destroyPod, type PodRecord, podAlive } from '../pod/pod.js';
import type { ProcessDescription } from '../process/description.js';
import { Cgroup } from '../system/cgroup.js';
import { listProcesses, readNamespace, readNamespacePids } from '../system/procfs.js';
import { BindingControl, type Forwarding } from './binding-control.js';
import type { Journal } from './journal.js';
import type { NodeName } from './messages.js';
import type { ResidentRecord } from './records.js';

const ENDED_REMEDY = 'there is nothing left to move: `homeproxy recall` on its home removes the entry';

/** A process that lives in a pod of this node for another home. */
export class Resident {
  constructor(
    readonly record: ResidentRecord,
    readonly control: BindingControl,
  ) {}

  get twin(): string {
    return this.record.twin;
  }
  get pod(): PodRecord {
    return this.record.pod;
  }
  get home(): NodeName {
    return this.record.home;
  }
  get description(): ProcessDescription {
    return this.record.description;
  }

  /** The root's pid as this node sees it; inside the pod it has its home pid. @throws {UserError} `RESIDENT_ENDED`. */
  localPid(): number {
    const namespace = readNamespace(this.pod.init.pid, 'pid');
    const pid = listProcesses().find(
      (candidate) =>
        readNamespace(candidate, 'pid') === namespace &&
        readNamespacePids(candidate).at(-1) === this.description.homePid,
    );
    if (pid !== undefined) return pid;
    throw new UserError({
      code: 'RESIDENT_ENDED',
      message: `process ${this.description.homePid} (${this.description.comm}) of ${this.home.name} has ended`,
      remedy:
        this.pod.root === undefined ? ENDED_REMEDY : `${ENDED_REMEDY}; its files stay in ${keptFolder(this.pod.root)}`,
    });
  }

  /** Whether its root process is there. */
  get runs(): boolean {
    try {
      return podAlive(this.pod) && this.localPid() > 0;
    } catch {
      return false;
    }
  }
}

/** The residents of a node, with their durable records. */
export class Residents {
  private readonly byTwin = new Map<string, Resident>();

  constructor(
    private readonly journal: Journal,
    private readonly forwarding: Forwarding,
  ) {}

  /** Takes up what the journal says, after a restart: pods, maps and pins have lived on without us. */
  async adopt(): Promise<void> {
    for (const record of this.journal.residents.all()) {
      const control = await BindingControl.adopt(this.forwarding, record, undefined);
      control.speakAgain(record.home);
      this.byTwin.set(record.twin, new Resident(record, control));
    }
  }

  all(): Resident[] {
    return [...this.byTwin.values()];
  }

  find(twin: string): Resident | undefined {
    return this.byTwin.get(twin);
  }

  require(twin: string): Resident {
    const resident = this.byTwin.get(twin);
    if (resident !== undefined) return resident;
    throw new UserError({
      code: 'RESIDENT_ENDED',
      message: `there is no ${twin} on this node any more`,
      remedy: ENDED_REMEDY,
    });
  }

  /**
   * The process runs elsewhere under a newer epoch: whatever is here of it can neither send nor receive, nor run.
   * @returns whether there was an older copy.
   */
  fence(twin: string, epoch: number): boolean {
    const resident = this.byTwin.get(twin);
    if (resident === undefined || resident.record.epoch >= epoch) return false;
    resident.control.fence(epoch);
    const cgroup = new Cgroup(resident.pod.cgroup);
    if (cgroup.exists) cgroup.setFrozen(true);
    return true;
  }

  add(record: ResidentRecord, control: BindingControl): Resident {
    const resident = new Resident(record, control);
    this.journal.residents.put(record.twin, record);
    this.byTwin.set(record.twin, resident);
    return resident;
  }

  /** Records durably that the copy here is the process. */
  confirm(resident: Resident): Resident {
    return this.add({ ...resident.record, state: 'running', arrivedAt: Date.now() }, resident.control);
  }

  /**
   * Removes pod, binding and record, and the files that it had here.
   * @param ended it ended here, and its files have gone nowhere else: they stay.
   */
  async remove(resident: Resident, ended = false): Promise<void> {
    const { root } = resident.pod;
    await destroyPod(resident.pod);
    if (root !== undefined && ended) keepFolder(root);
    else if (root !== undefined) wipeTree(root);
    // The record first: the binding's number may be given away as soon as it is gone. What a crash leaves, a restart sweeps.
    this.journal.residents.delete(resident.twin);
    this.byTwin.delete(resident.twin);
    await resident.control.remove();
  }
}
