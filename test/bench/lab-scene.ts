import { BugError } from '../../cli/errors.js';
import { Lab } from '../../cli/lab/lab.js';
import type { LabNode } from '../../cli/lab/lab-node.js';
import type { LabAttach } from '../../cli/lab/plan.js';
import { runHomeproxy } from '../lab/node-command.js';
import { ALTERNATIVES, listening, portList } from './lab-alternatives.js';
import type { Accounted } from './lab-profile.js';
import type { VariantName } from './lab-ratios.js';
import { routeThroughHome } from './lab-routed.js';
import { CONGESTION_CONTROL, type Ports, type Target } from './lab-traffic.js';

/** How the labs of a variant are built. */
export interface Variant {
  readonly name: VariantName;
  readonly attach: LabAttach;
  readonly offloads: boolean;
}

export const VARIANTS: readonly Variant[] = [
  { name: 'tc', attach: 'tc', offloads: true },
  { name: 'xdp', attach: 'xdp', offloads: false },
];

/** A way from the client to a server on the host (or to one that is at home), ready for use between `open` and the end. */
export interface Path {
  readonly name: string;
  /** @returns what the client connects to, and what takes down what `open` has set up */
  open(): Promise<{ target: Target; close: () => Promise<void> }>;
}

export interface SceneOptions {
  readonly env: NodeJS.ProcessEnv;
  readonly seconds: number;
  readonly signal: AbortSignal;
}

/** The servers that move away, or that the alternatives forward to, and those that stay where they were started. */
const MOVING: Ports = { iperf: 5201, redis: 6379, sockperf: 11_111 };
const STAYING: Ports = { iperf: 5202, redis: 6380, sockperf: 11_112 };

const REDIS_FOLDER = '/run/redis';
const VALUE_BYTES = 1024;

/** The same in every node: a port is free again after a second, and bulk data is not paced by a clock. */
const NODE_SETTINGS = [
  `net.ipv4.tcp_congestion_control=${CONGESTION_CONTROL}`,
  'net.ipv4.tcp_tw_reuse=1',
  'net.ipv4.ip_local_port_range=12000 65000',
];

/**
 * Two labs with the same links: one with homeproxy, whose server has departed; one without, for the alternatives. Nobody
 * who uses one of those has our programs on the interface.
 */
export class Scene {
  private constructor(
    readonly paths: readonly Path[],
    /** The nodes that the way of a departed process crosses. */
    readonly accounted: readonly Accounted[],
    private readonly labs: readonly string[],
  ) {}

  /** Builds both labs, with the servers and the departure. Nothing is left when it fails or is aborted. */
  static async up(variant: Variant, options: SceneOptions): Promise<Scene> {
    const names = ['ours', 'plain'].map((purpose) => `bench-${purpose}-${variant.name}-${process.pid}`);
    const [ours = '', plain = ''] = names;
    try {
      const links = { hosts: 1, offloads: variant.offloads, signal: options.signal };
      const homeproxyLab = await Lab.up({ ...links, name: ours, attach: variant.attach });
      const plainLab = await Lab.up({ ...links, name: plain, daemons: false });
      for (const lab of [homeproxyLab, plainLab]) await prepare(lab, options);
      await startServers(homeproxyLab.node('host1'), STAYING, options);
      await startServers(homeproxyLab.node('home'), STAYING, options);
      await depart(homeproxyLab, options);
      await startServers(plainLab.node('host1'), MOVING, options);
      const accounted: Accounted[] = [];
      for (const node of ['home', 'host1']) accounted.push({ node, daemon: await homeproxyLab.startDaemon(node) });
      return new Scene([...ourPaths(homeproxyLab, options), ...plainPaths(plainLab, options)], accounted, names);
    } catch (error) {
      await takeDown(names);
      throw error;
    }
  }

  async down(): Promise<void> {
    await takeDown(this.labs);
  }
}

async function takeDown(labs: readonly string[]): Promise<void> {
  for (const lab of labs) await Lab.down(lab);
}

async function prepare(lab: Lab, { signal }: SceneOptions): Promise<void> {
  for (const node of lab.nodes) await node.run(['sysctl', '--quiet', '--write', ...NODE_SETTINGS], { signal });
}

/** Ordinary processes of a node. @returns their pids in the node */
async function startServers(node: LabNode, ports: Ports, { env, signal }: SceneOptions): Promise<number[]> {
  const redis = `${REDIS_FOLDER}/redis-server`;
  await node.run(['mkdir', '-p', REDIS_FOLDER], { signal });
  await node.run(['ln', '-sf', '/usr/bin/redis-check-rdb', redis], { signal }); // behaves as the name says that it has
  const settings = ['--bind', '0.0.0.0', '--protected-mode', 'no', '--save', '', '--dir', '/'];
  const commands = [
    ['iperf3', '--server', '--port', String(ports.iperf)],
    [redis, '--port', String(ports.redis), ...settings],
    ['sockperf', 'server', '--tcp', '-i', '0.0.0.0', '-p', String(ports.sockperf)],
  ];
  const pids: number[] = [];
  for (const command of commands) pids.push(await node.detach(command, { env }));
  await listening(node, portList(ports), true);
  const value = 'v'.repeat(VALUE_BYTES); // redis-benchmark asks for this key, whoever set it
  await node.run(['redis-cli', '-e', '-p', String(ports.redis), 'SET', 'key:__rand_int__', value], { signal });
  return pids;
}

async function depart(lab: Lab, options: SceneOptions): Promise<void> {
  const home = lab.node('home');
  for (const pid of await startServers(home, MOVING, options)) {
    options.signal.throwIfAborted();
    const { status, stdout, stderr } = await runHomeproxy(home, ['migrate', String(pid), 'host1', '--json']);
    if (status !== 0) throw new BugError(`a server could not be moved: status ${status}\n${stdout}${stderr}`);
  }
}

function ourPaths(lab: Lab, options: SceneOptions): Path[] {
  const path = (name: string, server: string, ports: Ports): Path => ({
    name,
    open: async () => ({ target: target(lab, server, ports, options), close: async () => undefined }),
  });
  return [path('direct', 'host1', STAYING), path('home', 'home', STAYING), path('departed', 'home', MOVING)];
}

function plainPaths(lab: Lab, options: SceneOptions): Path[] {
  const { env, signal } = options;
  const way = { home: lab.node('home'), host: lab.node('host1').address, ports: MOVING, env, signal };
  const plain: Path = {
    name: 'plain',
    open: async () => ({ target: target(lab, 'host1', MOVING, options), close: async () => undefined }),
  };
  const routed: Path = {
    name: 'routed',
    open: async () => {
      const nodes = { client: lab.node('client'), home: way.home, host: lab.node('host1') };
      const { address, close } = await routeThroughHome({ ...nodes, signal });
      return { target: { ...target(lab, 'host1', MOVING, options), address }, close };
    },
  };
  const alternatives = ALTERNATIVES.map(
    ({ name, start }): Path => ({
      name,
      open: async () => {
        const close = await start(way);
        return { target: target(lab, 'home', MOVING, options), close };
      },
    }),
  );
  return [plain, routed, ...alternatives];
}

function target(lab: Lab, server: string, ports: Ports, { env, seconds, signal }: SceneOptions): Target {
  return { client: lab.node('client'), address: lab.node(server).address, ports, env, seconds, signal };
}
