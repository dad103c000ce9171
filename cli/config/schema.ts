import { isIPv6 } from 'node:net';
import ipaddr from 'ipaddr.js';
import { z } from 'zod';
import { carrySection } from './carry-schema.js';
import { guestsSection } from './guests-schema.js';
import { labelsSection } from './labels.js';
import { metricsSection } from './metrics-schema.js';
import { rate } from './rate.js';

export const DEFAULT_PEER_PORT = 7077;

const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const INTERFACE = /^[^\s/:]{1,15}$/;

const nodeName = z
  .string()
  .regex(NAME, 'must be a name of small letters, digits and inner hyphens, at most 63 characters');

const address = z
  .string()
  .refine(isNodeAddress, 'must be an IPv4 or IPv6 address of one machine, without prefix length and zone')
  .transform((text) => (ipaddr.isValid(text) ? ipaddr.parse(text).toString() : text));

const absolutePath = z
  .string()
  .regex(/^\/[^\0]*$/, 'must be an absolute path')
  .max(4096);

function milliseconds(defaultValue: number, description: string) {
  return z
    .int('must be a whole number of milliseconds')
    .min(1, 'must be at least 1 (milliseconds)')
    .max(86_400_000, 'must be at most 86400000 (milliseconds, one day)')
    .default(defaultValue)
    .describe(`${description} Milliseconds, default ${defaultValue}.`);
}

const nodeEntry = z.strictObject({
  name: nodeName.describe("The node's name: it is the CN and the DNS name of the node's certificate."),
  address: address.describe('The address at which the other nodes reach it (IPv4 or IPv6), also its care-of address.'),
  otherAddress: address
    .optional()
    .describe(
      'Its address in the other family. Needed only where the addresses of `nodes` are of both families: tunnels to a node leave from the address of its family. Default: none.',
    ),
  encapsulation: z
    .enum(['ip', 'udp'], 'must be ip or udp')
    .default('ip')
    .describe(
      'What is around packets in a tunnel to it: an IP header alone, or IP and UDP (port 6080) for networks that filter protocols 4 and 41, or spread load by ports. Default ip.',
    ),
  port: z
    .int('must be a whole number')
    .min(1, 'must be between 1 and 65535')
    .max(65_535, 'must be between 1 and 65535')
    .default(DEFAULT_PEER_PORT)
    .describe(`TCP port of its daemon. Default ${DEFAULT_PEER_PORT}.`),
  reverseTunnel: z
    .boolean('must be true or false')
    .default(false)
    .describe(
      'What departed processes send from there goes back through their home: for a network that drops packets with ' +
        "another machine's source address. Default false: straight to the correspondent.",
    ),
  labels: labelsSection
    .optional()
    .describe('What policies may ask of a host (`where.labels`): `{rack: r1, disk: ssd}`. Default: none.'),
  near: z
    .array(z.string().refine(ipaddr.isValidCIDR, 'must be a network such as 192.0.2.0/24'))
    .max(64)
    .optional()
    .describe(
      'Networks whose correspondents are near it, besides those that it is in: for `where.prefer: near-correspondents`. Default: none.',
    ),
});

const uplinkEntry = z.strictObject({
  interface: z
    .string()
    .regex(INTERFACE, 'must be the name of a network interface (1 to 15 characters)')
    .describe('Network interface through which correspondents and nodes are reached.'),
  attach: z
    .enum(['auto', 'xdp', 'xdp-generic', 'tc'], 'must be auto, xdp, xdp-generic or tc')
    .default('auto')
    .describe('Where the programs attach. Default auto: native XDP where the driver has it, else tc.'),
});

/** The configuration file as it may be written. Every default is stated in the description of its field. */
export const configSchema = z
  .strictObject({
    node: nodeName.describe("This machine's name; must be one of `nodes`."),
    nodes: z
      .array(nodeEntry)
      .min(1, 'must name at least this machine')
      .max(1024)
      .describe('Every node, this one included; the same list on every node.'),
    uplinks: z
      .array(uplinkEntry)
      .max(64)
      .default([])
      .describe("Interfaces to attach to. Default: the interface that has this node's address, attach auto."),
    tcx: z
      .boolean('must be true or false')
      .default(true)
      .describe(
        'Attach tc programs by tcx where the kernel has it (Linux 6.6): they cost less, and come before the programs and filters ' +
          'of others. false: as tc filters of priority 26736, as without it. Default true.',
      ),
    tls: z
      .strictObject({
        ca: absolutePath
          .default('/etc/homeproxy/ca.pem')
          .describe('Certificate of the authority that signed every node. Default /etc/homeproxy/ca.pem.'),
        certificate: absolutePath
          .default('/etc/homeproxy/node.pem')
          .describe("This node's certificate. Default /etc/homeproxy/node.pem."),
        key: absolutePath
          .default('/etc/homeproxy/node.key')
          .describe('Its key, readable by root only (mode 0600). Default /etc/homeproxy/node.key.'),
        revocations: absolutePath
          .default('/etc/homeproxy/ca.crl')
          .describe(
            'Certificates that are not trusted any more, as `homeproxy ca revoke` writes them; need not be there. Default /etc/homeproxy/ca.crl.',
          ),
      })
      .prefault({})
      .describe(
        'Files for the mutual TLS between nodes; `homeproxy ca issue` makes them. The daemon takes up new ones within seconds.',
      ),
    paths: z
      .strictObject({
        run: absolutePath
          .default('/run/homeproxy')
          .describe(
            'Control socket, and checkpoint images on their way: a tmpfs with room for the memory of what moves. Default /run/homeproxy.',
          ),
        state: absolutePath
          .default('/var/lib/homeproxy')
          .describe('Journal of migrations: must survive a reboot. Default /var/lib/homeproxy.'),
        bpf: absolutePath
          .default('/sys/fs/bpf/homeproxy')
          .describe('Folder of a mounted bpffs for pinned programs, links and maps. Default /sys/fs/bpf/homeproxy.'),
      })
      .prefault({})
      .describe('Where this node keeps its files.'),
    criu: z
      .strictObject({
        path: z
          .string()
          .regex(/^(auto|\/[^\0]*)$/, 'must be auto or an absolute path')
          .max(4096)
          .default('auto')
          .describe("CRIU's program. Default auto: the private prefix's if it is there, else criu on PATH."),
      })
      .prefault({})
      .describe('Checkpoint and restore.'),
    policies: absolutePath
      .optional()
      .describe('File of migration policies; changes of it are taken up by the daemon. Default: none.'),
    park: z
      .strictObject({
        packets: z
          .int('must be a whole number of packets')
          .min(1, 'must be at least 1 (packets)')
          .max(1_000_000, 'must be at most 1000000 (packets)')
          .default(10_000)
          .describe(
            'How many packets are held for one frozen process; more are dropped and counted. Packets, default 10000.',
          ),
      })
      .prefault({})
      .describe('Packets that arrive while a process is frozen.'),
    control: z
      .strictObject({
        group: z
          .string()
          .regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$/, 'must be the name or the number of a group')
          .optional()
          .describe(
            'Group whose members may see what is away and move processes of their own. Default: none, root only.',
          ),
        drainFrom: z
          .array(z.string())
          .max(1024)
          .optional()
          .describe(
            'Nodes whose root may empty this one and open it again (`homeproxy drain`); itself need not be here. []: no other. Default: every node.',
          ),
      })
      .prefault({})
      .describe('Who may command the daemon of this machine.'),
    portBlock: z
      .strictObject({
        ports: z
          .int('must be a whole number of ports')
          .min(0, 'must be at least 0 (ports)')
          .max(4096, 'must be at most 4096 (ports)')
          .multipleOf(64, 'must be a multiple of 64 (ports)')
          .default(256)
          .describe(
            'How many ports are reserved for the connections that one departed process of this node opens while it is away; a multiple of 64. 0: none, and such connections do not work. Ports, default 256.',
          ),
      })
      .prefault({})
      .describe('Ports of what a process opens while it is away.'),
    carry: carrySection,
    guests: guestsSection,
    metrics: metricsSection,
    transfer: z
      .strictObject({
        bandwidthLimit: rate()
          .optional()
          .describe(
            'Memory is sent no faster, where neither --bandwidth-limit nor a policy says otherwise: bytes per second of one migration, for example 50M. What CRIU carries in the freeze is not held back. `timeouts.transferMs` has to leave time enough. Default: as fast as it goes.',
          ),
      })
      .prefault({})
      .describe('How memory travels.'),
    timeouts: z
      .strictObject({
        connectMs: milliseconds(3000, 'For a connection to another node, handshake included.'),
        prepareMs: milliseconds(10_000, 'For the destination to build the pod, before anything is frozen.'),
        drainMs: milliseconds(1000, 'For connections that the process has not accepted yet to leave its queue.'),
        freezeMs: milliseconds(
          10_000,
          'From the freeze until the checkpoint is complete, besides the time for which it waits for the network.',
        ),
        transferMs: milliseconds(
          60_000,
          'For the memory to travel ahead, and for the checkpoint to travel to the destination.',
        ),
        freezeBudgetMs: milliseconds(
          100,
          'What copying memory ahead works for: rounds go on while they make the expected freeze shorter. Nothing is rolled back because of it.',
        ),
        maxFreezeMs: milliseconds(30_000, 'For the whole freeze, from the moment that the process stands still.'),
        restoreMs: milliseconds(30_000, 'For the destination to restore it.'),
        commitMs: milliseconds(10_000, 'For the destination to answer that it runs the process after the commit.'),
      })
      .prefault({})
      .describe('How long a phase of a migration may take before it is rolled back (after the commit: repeated).'),
  })
  .superRefine((config, context) => {
    duplicates(config.nodes, (node) => node.name).forEach(([index, name]) => {
      context.addIssue({ code: 'custom', path: ['nodes', index, 'name'], message: `is used twice: "${name}"` });
    });
    duplicates(config.nodes, (node) => endpoint(node.address, node.port)).forEach(([index, text]) => {
      context.addIssue({ code: 'custom', path: ['nodes', index, 'address'], message: `is used twice: ${text}` });
    });
    for (const [index, field, message] of familyProblems(config.nodes)) {
      context.addIssue({ code: 'custom', path: ['nodes', index, field], message });
    }
    duplicates(config.uplinks, (uplink) => uplink.interface).forEach(([index, name]) => {
      context.addIssue({ code: 'custom', path: ['uplinks', index, 'interface'], message: `is used twice: "${name}"` });
    });
    const known = (names: readonly string[] = [], ...path: (string | number)[]): void =>
      names.forEach((name, index) => {
        if (config.nodes.some((node) => node.name === name)) return;
        context.addIssue({ code: 'custom', path: [...path, index], message: `"${name}" is not one of the nodes` });
      });
    config.guests.accept.forEach(({ from }, rule) => {
      known(from, 'guests', 'accept', rule, 'from');
    });
    known(config.control.drainFrom, 'control', 'drainFrom');
    if (!config.nodes.some((node) => node.name === config.node)) {
      context.addIssue({ code: 'custom', path: ['node'], message: `"${config.node}" is not one of the nodes` });
    }
  });

/** A checked configuration: every field is there. */
export type Config = z.output<typeof configSchema>;
export type NodeEntry = Config['nodes'][number];
export type Uplink = Config['uplinks'][number];

/** Whether a text may be the name of a node. */
export function isNodeName(text: string): boolean {
  return NAME.test(text);
}

/** This machine's own entry in `nodes`. */
export function ownNode(config: Config): NodeEntry {
  const own = config.nodes.find((node) => node.name === config.node);
  if (own === undefined) throw new TypeError(`${config.node} is not in nodes`); // the schema refuses such a file
  return own;
}

/** Every node must have an address in each family that `address` of any node is of: tunnels to that one leave from it. */
function familyProblems(
  nodes: readonly { name: string; address: string; otherAddress?: string | undefined }[],
): [number, 'address' | 'otherAddress', string][] {
  const problems: [number, 'address' | 'otherAddress', string][] = [];
  nodes.forEach(({ address: own, otherAddress }, index) => {
    const foreign = nodes.find((node) => isIPv6(node.address) !== isIPv6(own));
    const family = isIPv6(own) ? 'IPv4' : 'IPv6';
    if (otherAddress === undefined && foreign !== undefined) {
      problems.push([
        index,
        'address',
        `needs an otherAddress of ${family} beside it: "${foreign.name}" is reached by ${family}`,
      ]);
    } else if (otherAddress !== undefined && isIPv6(otherAddress) === isIPv6(own)) {
      problems.push([index, 'otherAddress', `must be an ${family} address: it stands beside ${own}`]);
    }
  });
  return problems;
}

function endpoint(nodeAddress: string, port: number): string {
  return nodeAddress.includes(':') ? `[${nodeAddress}]:${port}` : `${nodeAddress}:${port}`;
}

function isNodeAddress(text: string): boolean {
  if (text.includes('%') || text.includes('/')) return false;
  // ipaddr.js also takes "10", "0x0a000001" and octal parts, which no administrator means.
  if (!text.includes(':') && !ipaddr.IPv4.isValidFourPartDecimal(text)) return false;
  if (!ipaddr.isValid(text)) return false;
  const range = ipaddr.parse(text).range();
  return range !== 'unspecified' && range !== 'multicast' && range !== 'broadcast';
}

function duplicates<T>(items: readonly T[], keyOf: (item: T) => string): [number, string][] {
  const seen = new Set<string>();
  const repeated: [number, string][] = [];
  items.forEach((item, index) => {
    const key = keyOf(item);
    if (seen.has(key)) repeated.push([index, key]);
    seen.add(key);
  });
  return repeated;
}
