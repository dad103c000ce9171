import { setTimeout as sleep } from 'node:timers/promises';
import { ExternalError } from '../../cli/errors.js';
import type { LabNode } from '../../cli/lab/lab-node.js';
import type { Ports } from './lab-traffic.js';

/** Something that a user would put on the home node to send a service's clients on to another host. */
export interface Alternative {
  readonly name: string;
  /** Sets it up on the home node. @returns what takes it away again */
  start(way: Way): Promise<() => Promise<void>>;
}

export interface Way {
  readonly home: LabNode;
  /** Where the servers are; they keep their ports. */
  readonly host: string;
  readonly ports: Ports;
  readonly env: NodeJS.ProcessEnv;
  readonly signal: AbortSignal;
}

const HAPROXY_CONFIG = '/run/bench-haproxy.cfg';
const LISTEN_TIMEOUT_MS = 10_000;
/** Ports of the rules that stand before ours: nothing in the lab uses them. */
const FIRST_OTHER_PORT = 20_000;

/** All of them, each with the settings that its manual recommends for forwarding TCP. */
export const ALTERNATIVES: readonly Alternative[] = [
  { name: 'nftables', start: startNftables },
  ...[1, 100, 10_000].map(
    (rules): Alternative => ({ name: `iptables-${rules}`, start: (way) => startIptables(way, rules) }),
  ),
  { name: 'haproxy', start: startHaproxy },
  { name: 'socat', start: startSocat },
];

async function startNftables(way: Way): Promise<() => Promise<void>> {
  await forward(way);
  await way.home.run(['nft', '-f', '-'], { env: way.env, signal: way.signal, input: nftablesRules(way) });
  return async () => {
    await way.home.run(['nft', 'delete', 'table', 'ip', 'bench'], { env: way.env });
  };
}

function nftablesRules({ host, ports }: Way): string {
  return `table ip bench {
  chain prerouting {
    type nat hook prerouting priority dstnat;
    tcp dport { ${portList(ports).join(', ')} } dnat to ${host}
  }
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip daddr ${host} masquerade
  }
}
`;
}

/** Debian's iptables, which writes nf_tables. The rules stand in a row, as kube-proxy and Docker write them; ours is the last. */
async function startIptables(way: Way, rules: number): Promise<() => Promise<void>> {
  const { home, env, signal } = way;
  await forward(way);
  await home.run(['iptables-nft-restore'], { env, signal, input: iptablesRules(way, rules) });
  return async () => {
    await home.run(['nft', 'delete', 'table', 'ip', 'nat'], { env }); // with it go its hooks, and connection tracking
  };
}

function iptablesRules({ host, ports }: Way, rules: number): string {
  const others = Array.from({ length: rules - 1 }, (_, index) =>
    dnat(['--dport', `${FIRST_OTHER_PORT + index}`], host),
  );
  const ours = dnat(['-m', 'multiport', '--dports', portList(ports).join(',')], host);
  return ['*nat', ...others, ours, `-A POSTROUTING -d ${host} -j MASQUERADE`, 'COMMIT', ''].join('\n');
}

function dnat(match: readonly string[], host: string): string {
  return ['-A PREROUTING -p tcp', ...match, `-j DNAT --to-destination ${host}`].join(' ');
}

async function forward({ home, signal }: Way): Promise<void> {
  await home.run(['sysctl', '--quiet', '--write', 'net.ipv4.ip_forward=1'], { signal });
}

async function startHaproxy(way: Way): Promise<() => Promise<void>> {
  await way.home.run(['tee', HAPROXY_CONFIG], { input: haproxyConfig(way), signal: way.signal });
  return await startProxies(way, [['haproxy', '-db', '-q', '-f', HAPROXY_CONFIG]]);
}

function haproxyConfig({ host, ports }: Way): string {
  const services = portList(ports).map(
    (port) => `listen port-${port}\n  bind :${port}\n  server host ${host}:${port}\n`,
  );
  return `global
  nbthread 2
  maxconn 4096
defaults
  mode tcp
  option splice-auto
  timeout connect 5s
  timeout client 1m
  timeout server 1m
${services.join('')}`;
}

async function startSocat(way: Way): Promise<() => Promise<void>> {
  return await startProxies(
    way,
    portList(way.ports).map((port) => [
      'socat',
      '-b',
      '131072', // its default of 8 kB halves the throughput
      `TCP4-LISTEN:${port},fork,reuseaddr,nodelay,backlog=128`,
      `TCP4:${way.host}:${port},nodelay`,
    ]),
  );
}

/** Starts programs that end when they are told to, and waits until they listen. */
async function startProxies(way: Way, commands: readonly (readonly string[])[]): Promise<() => Promise<void>> {
  const { home, env, ports } = way;
  const pids = await Promise.all(commands.map((command) => home.detach(command, { env })));
  const stop = async (): Promise<void> => {
    for (const pid of pids) killInside(home, pid);
    await listening(home, portList(ports), false);
  };
  try {
    await listening(home, portList(ports), true);
  } catch (error) {
    await stop();
    throw error;
  }
  return stop;
}

/** Ends a process of a node with all that it started: each has a session of its own. */
function killInside(node: LabNode, pid: number): void {
  const machinePid = node.machinePid(pid);
  if (machinePid === undefined) return;
  try {
    process.kill(-machinePid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/**
 * Waits until something listens on all of the ports of a node, or nothing on any.
 * @throws {ExternalError} `BENCH_SILENT` after 10 s
 */
export async function listening(node: LabNode, ports: readonly number[], wanted: boolean): Promise<void> {
  for (const deadline = performance.now() + LISTEN_TIMEOUT_MS; ; await sleep(10)) {
    const { stdout } = await node.run(['ss', '-Hltn']);
    const open = new Set(stdout.split('\n').map((line) => Number(/:(\d+) /.exec(line)?.[1])));
    if (ports.every((port) => open.has(port) === wanted)) return;
    if (performance.now() < deadline) continue;
    throw new ExternalError({
      code: 'BENCH_SILENT',
      message: `on ${node.name}, ${ports.join(', ')} are ${wanted ? 'not served' : 'still served'} after 10 s`,
      command: 'ss -Hltn',
      log: stdout.split('\n').slice(0, 8),
    });
  }
}

export function portList(ports: Ports): number[] {
  return [ports.iperf, ports.redis, ports.sockperf];
}
