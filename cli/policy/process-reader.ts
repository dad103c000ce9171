import { readFileSync } from 'node:fs';
import { setImmediate as breathe } from 'node:timers/promises';
import type { Labels } from '../config/labels.js';
import type { TwinRecord } from '../migration/records.js';
import { readLabels } from '../process/labels.js';
import { type InternetSocket, isLoopback, readInternetSockets, readSocketHolders } from '../process/sockets.js';
import { unifiedMount } from '../system/cgroup.js';
import {
  listProcesses,
  type ProcessIdentity,
  readCgroup,
  readCommandLine,
  readNamespace,
  readProcess,
  readTree,
  readUid,
} from '../system/procfs.js';
import type { ProcessFacts } from './facts.js';
import type { Policy } from './model.js';
import { exclusion } from './selection.js';

/** More of them tell nothing new about where most of them are. */
const MAX_CORRESPONDENTS = 256;
/** Processes that are looked at in one go: a millisecond or two. */
const AT_A_TIME = 16;

/** What the home knows of its processes besides /proc. */
export interface Knowledge {
  readonly home: string;
  /** Of those that are away, or about to leave. */
  twins(): readonly TwinRecord[];
  moving(): readonly number[];
}

/** Reads the processes of this home that policies may be about, here and away. */
export class ProcessReader {
  constructor(private readonly knowledge: Knowledge) {}

  /** All that at least one policy chooses. Looks at a few at a time: packets and pages may be waiting for us. */
  async read(policies: readonly Policy[]): Promise<ProcessFacts[]> {
    if (policies.length === 0) return [];
    const look = new Look();
    const moving = new Set(this.knowledge.moving());
    const away = this.away(look, moving);
    const taken = new Set(away.map(({ pid }) => pid));
    const own = ownPids();
    const here: ProcessFacts[] = [];
    for (const [index, pid] of listProcesses().entries()) {
      if (index % AT_A_TIME === AT_A_TIME - 1) await breathe();
      if (taken.has(pid) || own.has(pid)) continue;
      const process = look.process(pid);
      if (process === undefined || policies.every((policy) => exclusion(policy, process) !== undefined)) continue;
      if (isOurs(pid)) here.push(this.whole(process, moving));
    }
    return [...here, ...away.filter((process) => policies.some((policy) => exclusion(policy, process) === undefined))];
  }

  /** One process, whatever policies say about it; undefined when this home has none of that pid that could move. */
  find(pid: number): ProcessFacts | undefined {
    const look = new Look();
    const moving = new Set(this.knowledge.moving());
    const away = this.away(look, moving).find((process) => process.pid === pid);
    if (away !== undefined) return away;
    const process = ownPids().has(pid) ? undefined : look.process(pid);
    return process !== undefined && isOurs(pid) ? this.whole(process, moving) : undefined;
  }

  private whole(process: LocalProcess, moving: ReadonlySet<number>): ProcessFacts {
    const { pid, name, commandLine, user, uid, cgroup, labels, ports, correspondents, residentBytes } = process;
    return {
      pid,
      name,
      commandLine,
      user,
      uid,
      cgroup,
      labels,
      ports,
      correspondents,
      residentBytes,
      ancestors: ancestorsOf(pid),
      location: this.knowledge.home,
      moving: moving.has(pid),
    };
  }

  private away(look: Look, moving: ReadonlySet<number>): ProcessFacts[] {
    const mount = unifiedMount();
    return this.knowledge
      .twins()
      .filter(({ location }) => location.name !== this.knowledge.home)
      .map(({ description, location, cgroup, uid, labels = {} }) => ({
        pid: description.homePid,
        name: description.comm,
        commandLine: description.commandLine,
        user: uid === undefined ? '' : look.userName(uid),
        uid,
        cgroup: cgroup.startsWith(mount) ? cgroup.slice(mount.length) : cgroup,
        labels,
        ports: [...new Set(description.ports.map(({ port }) => port))],
        correspondents: description.correspondents.filter((address) => !isLoopback(address)),
        residentBytes: description.residentBytes,
        ancestors: [],
        location: location.name,
        moving: moving.has(description.homePid),
      }));
  }
}

/** What is read at most once in a round: tables that belong to no process. */
class Look {
  private users: ReadonlyMap<number, string> | undefined;
  private listening: ReadonlyMap<number, number> | undefined;
  private internet: readonly InternetSocket[] | undefined;
  private peers: readonly InternetSocket[] | undefined;

  process(pid: number): LocalProcess | undefined {
    const identity = readProcess(pid);
    if (identity === undefined || identity.kernelThread || identity.state === 'Z') return undefined;
    return new LocalProcess(identity, this);
  }

  userName(uid: number): string {
    this.users ??= readUsers();
    return this.users.get(uid) ?? '';
  }

  /** Sockets with a far end, on another machine as far as their address tells. */
  connected(): readonly InternetSocket[] {
    this.peers ??= this.sockets().filter(({ remote }) => remote.port !== 0 && !isLoopback(remote.address));
    return this.peers;
  }

  private sockets(): readonly InternetSocket[] {
    this.internet ??= readInternetSockets('self');
    return this.internet;
  }

  /** Ports of listeners and UDP sockets by their inodes. */
  portsByInode(): ReadonlyMap<number, number> {
    this.listening ??= new Map(
      this.sockets()
        .filter(({ transport, state }) => transport.startsWith('udp') || state === 'LISTEN')
        .map(({ inode, local }) => [inode, local.port]),
    );
    return this.listening;
  }
}

/** A process of this node; what no policy asks for is not read. */
class LocalProcess implements Omit<ProcessFacts, 'location' | 'ancestors' | 'moving'> {
  constructor(
    private readonly identity: ProcessIdentity,
    private readonly look: Look,
  ) {}

  readonly ancestors: number[] = [];
  readonly moving = false;

  get pid(): number {
    return this.identity.pid;
  }
  get name(): string {
    return this.identity.comm;
  }
  get commandLine(): string {
    return readCommandLine(this.pid);
  }
  get uid(): number | undefined {
    return readUid(this.pid);
  }
  get user(): string {
    return this.uid === undefined ? '' : this.look.userName(this.uid);
  }
  get cgroup(): string {
    return readCgroup(this.pid) ?? '';
  }
  get labels(): Labels {
    return readLabels(this.pid);
  }
  get ports(): number[] {
    const ports = this.look.portsByInode();
    const inodes = readable(() => [...readSocketHolders([this.pid]).keys()], []);
    return inodes.flatMap((inode) => ports.get(inode) ?? []);
  }
  get correspondents(): string[] {
    const inodes = readable(() => readSocketHolders(readTree(this.pid)), new Map());
    const connected = this.look.connected().filter(({ inode }) => inodes.has(inode));
    return [...new Set(connected.map(({ remote }) => remote.address))].slice(0, MAX_CORRESPONDENTS);
  }
  get residentBytes(): number {
    return readTree(this.pid).reduce((sum, pid) => sum + (readProcess(pid)?.residentBytes ?? 0), 0);
  }
}

/** This daemon, all that it descends from, and all that it has started: nobody moves them. */
function ownPids(): ReadonlySet<number> {
  return new Set([1, process.pid, ...ancestorsOf(process.pid), ...readTree(process.pid)]);
}

/** Whether it lives in the same namespaces as we do: no container, and no guest in one of our pods. */
function isOurs(pid: number): boolean {
  const kinds = ['net', 'mnt', 'pid', 'user'] as const;
  return readable(() => kinds.every((kind) => readNamespace(pid, kind) === readNamespace('self', kind)), false);
}

function ancestorsOf(pid: number): number[] {
  const found: number[] = [];
  for (let at = readProcess(pid)?.parent ?? 0; at > 0 && !found.includes(at); at = readProcess(at)?.parent ?? 0) {
    found.push(at);
  }
  return found;
}

/** The names of users by their numbers (passwd(5)). */
function readUsers(): ReadonlyMap<number, string> {
  const text = readable(() => readFileSync('/etc/passwd', 'utf8'), '');
  return new Map(
    text
      .split('\n')
      .map((line) => line.split(':'))
      .filter((fields) => fields.length > 2)
      .map(([name = '', , uid]) => [Number(uid), name]),
  );
}

/** Whom even root may not look into (it has capabilities that we lack), no policy can be about. */
function readable<Result>(read: () => Result, otherwise: Result): Result {
  try {
    return read();
  } catch {
    return otherwise;
  }
}
