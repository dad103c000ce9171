import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { readFileSync, readlinkSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const [, FIRST_CPU = '0'] = /^Cpus_allowed_list:\s*(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
const ON_ONE_CPU = ['taskset', '-c', FIRST_CPU];
const TRAFFIC = fileURLToPath(new URL('./traffic-main.js', import.meta.url));

const holders = new Set<ChildProcess>();
// Also when a test ends early.
process.on('exit', () => {
  for (const holder of holders) holder.kill('SIGKILL');
});

/** A machine of a live test: a network namespace. Without a holder: the one that the test itself runs in. */
export class Machine {
  private constructor(private readonly holder: ChildProcess | undefined) {}

  static own(): Machine {
    return new Machine(undefined);
  }

  static async create(): Promise<Machine> {
    const holder = spawn('unshare', ['--net', 'sleep', 'infinity'], { stdio: 'ignore' });
    holders.add(holder);
    const own = readlinkSync('/proc/self/ns/net');
    while (readlinkSync(`/proc/${holder.pid}/ns/net`) === own) await new Promise((resolve) => setTimeout(resolve, 2));
    const machine = new Machine(holder);
    machine.run('ip', 'link', 'set', 'lo', 'up');
    return machine;
  }

  get pid(): number {
    return this.holder?.pid ?? process.pid;
  }

  /** Runs a program there and returns what it prints. */
  run(...command: readonly string[]): string {
    const [program = '', ...args] = this.inside(command);
    return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  }

  /** Several `ip` commands. */
  ip(...lines: readonly string[]): void {
    for (const line of lines) this.run('ip', ...line.split(' '));
  }

  sysctl(...settings: readonly string[]): void {
    for (const setting of settings) this.run('sysctl', '-qw', setting);
  }

  /** A counter of the kernel there, for example `TcpInCsumErrors`. */
  counter(name: string): number {
    const line = this.run('nstat', '-asz', name)
      .split('\n')
      .find((text) => text.startsWith(name));
    return Number(line?.split(/\s+/)[1] ?? 0);
  }

  /** Starts one end of the traffic, or another program of this folder. */
  /** A stream stays on one CPU: each has a backlog of its own, and a sender that the scheduler moves would overtake itself. */
  start(role: string, ...args: readonly (string | number)[]): Traffic {
    return this.speaking([
      ...(role === 'stream' ? ON_ONE_CPU : []),
      process.execPath,
      TRAFFIC,
      role,
      ...args.map(String),
    ]);
  }

  startProgram(path: string, ...args: readonly (string | number)[]): Traffic {
    return this.speaking([process.execPath, path, ...args.map(String)]);
  }

  private speaking(command: readonly string[]): Traffic {
    const [program = '', ...rest] = this.inside(command);
    return new Traffic(spawn(program, rest, { stdio: ['pipe', 'pipe', 'inherit'] }));
  }

  close(): void {
    this.holder?.kill('SIGKILL');
  }

  private inside(command: readonly string[]): string[] {
    return this.holder === undefined
      ? [...command]
      : ['nsenter', '-t', String(this.holder.pid), '-n', '--', ...command];
  }
}

export interface TrafficEvent {
  readonly event: string;
  readonly [field: string]: unknown;
}

/** A running end of traffic: its events in order. */
export class Traffic {
  private readonly events: TrafficEvent[] = [];
  private wake: () => void = () => undefined;

  constructor(private readonly child: ChildProcess) {
    if (child.stdout === null) throw new Error('no output to read');
    createInterface({ input: child.stdout }).on('line', (line) => {
      this.events.push(JSON.parse(line) as TrafficEvent);
      this.wake();
    });
  }

  /** The next event of that name, or an Error after `withinMs`. */
  async next(event: string, withinMs = 10_000): Promise<TrafficEvent> {
    const deadline = Date.now() + withinMs;
    for (;;) {
      const index = this.events.findIndex((each) => each.event === event);
      if (index >= 0) return this.events.splice(index, 1)[0] as TrafficEvent;
      const left = deadline - Date.now();
      if (left <= 0) throw new Error(`no event "${event}" within ${withinMs} ms; had ${JSON.stringify(this.events)}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  /** The events of that name that nobody has taken yet. */
  all(event: string): TrafficEvent[] {
    return this.events.filter((each) => each.event === event);
  }

  /** Gives it a line of input. */
  tell(line: string): void {
    this.child.stdin?.write(`${line}\n`);
  }

  /** Tells it to end. */
  /** @param lastWord for a role that is told something at the end. */
  finish(lastWord = ''): void {
    this.child.stdin?.end(lastWord);
  }

  close(): void {
    this.child.kill('SIGKILL');
  }
}

export interface Lan {
  readonly switch: Machine;
  close(): void;
}

/** Joins machines by a switch: each gets `up0` with its address in 10.0.0.0/24, as a lab's links are (GRO on, no tx offload). */
export async function joinLan(members: Readonly<Record<string, Machine>>): Promise<Lan> {
  const hub = await Machine.create();
  hub.ip('link add br0 type bridge', 'link set br0 up');
  let port = 0;
  for (const [address, machine] of Object.entries(members)) {
    const name = `port${port++}`;
    hub.ip(`link add ${name} type veth peer name up0 netns ${machine.pid}`, `link set ${name} master br0 up`);
    machine.ip('link set up0 addrgenmode none', `address add ${address}/24 dev up0`, 'link set up0 up');
    for (const [where, device] of [
      [hub, name],
      [machine, 'up0'],
    ] as const) {
      where.run('ethtool', '-K', device, 'tx', 'off', 'tso', 'off', 'gso', 'off', 'gro', 'on');
    }
    machine.sysctl('net.ipv4.conf.all.rp_filter=0', 'net.ipv4.conf.default.rp_filter=0');
  }
  return {
    switch: hub,
    close() {
      for (const machine of Object.values(members)) {
        try {
          machine.ip('link del up0');
        } catch {
          // it went with its namespace
        }
      }
      hub.close();
    },
  };
}
