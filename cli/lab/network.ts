import { run } from '../system/command.js';
import { NODE_INTERFACE, PREFIX_LENGTH, PREFIX_LENGTH_6 } from './plan.js';
import type { LabState } from './state.js';

const BRIDGE = 'switch';
const MTU = 1500;
/**
 * Native XDP in a node would forward packets whose checksum or segmentation a sender left to the link, and nothing on a
 * veth does that work. The switch's ports do it, for everything that they hand to a node; a node itself may send as much
 * at once as its kernel likes. GRO makes a veth poll (NAPI), without which it loses what XDP sends to it.
 */
const PORT_OFFLOADS = ['tx', 'off', 'tso', 'off', 'gso', 'off', 'gro', 'on'];
const NODE_OFFLOADS = ['gro', 'on'];
/** What the switch's ports keep where nothing attaches to XDP: super-packets cross the lab whole, as between a NIC and tc. */
const KEPT_OFFLOADS = ['gro', 'on'];
/** There is no router to ask for addresses. */
const NO_ROUTERS = ['all', 'default', NODE_INTERFACE].map((scope) => `net.ipv6.conf.${scope}.accept_ra=0`);

/**
 * Joins the nodes of a lab by a bridge in the switch's network namespace. Every device is made inside a namespace of
 * the lab, none in the machine's own.
 */
export async function connect(
  lab: Pick<LabState, 'switch' | 'nodes' | 'offloads'>,
  signal?: AbortSignal,
): Promise<void> {
  const within = { ...(signal === undefined ? {} : { signal }) };
  const hub = lab.switch.pid;
  await inNetwork(hub, ['ip', '-batch', '-'], {
    ...within,
    input: [
      `link add ${BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`,
      `link set ${BRIDGE} addrgenmode none up`,
      ...lab.nodes.flatMap(({ name, init }) => [
        `link add ${name} mtu ${MTU} type veth peer name ${NODE_INTERFACE} mtu ${MTU} netns ${init.pid}`,
        `link set ${name} addrgenmode none master ${BRIDGE}`,
        `link set ${name} up`,
      ]),
    ].join('\n'),
  });
  await Promise.all(
    lab.nodes.map(async ({ name, address, address6, init }, index) => {
      await inNetwork(hub, ['ethtool', '-K', name, ...(lab.offloads ? KEPT_OFFLOADS : PORT_OFFLOADS)], within);
      await inNetwork(init.pid, ['ethtool', '-K', NODE_INTERFACE, ...NODE_OFFLOADS], within);
      await inNetwork(init.pid, ['sysctl', '--quiet', '--write', ...NO_ROUTERS], within);
      await inNetwork(init.pid, ['ip', '-batch', '-'], {
        ...within,
        input: [
          'link set lo up',
          `link set ${NODE_INTERFACE} addrgenmode none`,
          `address add ${address}/${PREFIX_LENGTH} dev ${NODE_INTERFACE}`,
          // nodad: usable at once. The link-local one is what neighbour probes are sent from (RFC 4861, 7.2.2).
          `address add ${address6}/${PREFIX_LENGTH_6} dev ${NODE_INTERFACE} nodad`,
          `address add fe80::${(index + 1).toString(16)}/64 dev ${NODE_INTERFACE} nodad`,
          `link set ${NODE_INTERFACE} up`,
        ].join('\n'),
      });
    }),
  );
  await keepFiltersOffBridge(hub, within);
}

/** A loaded br_netfilter would send bridged packets through the machine's firewall rules (sysctl, per namespace). */
async function keepFiltersOffBridge(hub: number, within: { signal?: AbortSignal }): Promise<void> {
  const names = ['iptables', 'ip6tables', 'arptables'].map((family) => `net.bridge.bridge-nf-call-${family}=0`);
  await inNetwork(hub, ['sysctl', '--quiet', '--ignore', '--write', ...names], within);
}

async function inNetwork(
  pid: number,
  command: readonly string[],
  options: { input?: string; signal?: AbortSignal },
): Promise<void> {
  await run('nsenter', [`--net=/proc/${pid}/ns/net`, '--', ...command], options);
}
