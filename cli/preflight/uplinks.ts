import { programInfo, tcxQuery, xdpQuery } from '../../addon/lib/index.js';
import type { TcDirection } from '../../addon/lib/types.js';
import { type Config, type NodeEntry, ownNode } from '../config/load.js';
import { tunnelOverhead } from '../forwarding/encapsulation.js';
import { interfaceOf, readLink } from '../system/ip.js';
import { type Finding, failed, ok, warning } from './finding.js';
import { reversePathFilter } from './machine.js';

const THROUGH_HOME = 'what a departed process sends from here goes through its home, in a tunnel';
const STRAIGHT =
  'what a departed process sends from here has its home address as source: where a router or a switch around this host ' +
  'drops that (rp_filter, anti-spoofing), set `reverseTunnel: true` for this node on all nodes';

/** What the interfaces of the configuration are like: address, MTU, reverse-path filter, foreign programs. */
export async function checkUplinks(config: Config): Promise<Finding[]> {
  const self = ownNode(config);
  const home = await interfaceOf(self.address);
  const findings: Finding[] = [
    home === undefined
      ? failed('address', `no interface has ${self.address}`, `configure it, or correct the address of "${self.name}"`)
      : ok('address', `${self.address} on ${home}`),
    ok('sources', self.reverseTunnel ? THROUGH_HOME : STRAIGHT),
  ];
  const named = config.uplinks.map((uplink) => uplink.interface);
  const names = named.length > 0 ? named : [home].filter((name) => name !== undefined);
  for (const name of names) findings.push(...(await checkUplink(name, self)));
  return findings;
}

async function checkUplink(name: string, { address, encapsulation }: NodeEntry): Promise<Finding[]> {
  try {
    const link = await readLink(name);
    const inner = link.mtu - tunnelOverhead({ to: address, encapsulation });
    return [
      ok(
        `uplink-mtu:${name}`,
        `${link.mtu}; packets of up to ${inner} bytes fit into the tunnel, larger ones are answered`,
      ),
      xdpOwner(name, link.ifindex),
      ...(['ingress', 'egress'] as const).flatMap((direction) => inFrontOfUs(name, link.ifindex, direction)),
      reversePathFilter(name),
    ];
  } catch {
    return [failed(`uplink:${name}`, 'there is no such interface', 'correct `uplinks` in the configuration')];
  }
}

/** Programs of others that have come in front of our tc programs, which see only what those pass on. */
export function inFrontOfUs(name: string, ifindex: number, direction: TcDirection): Finding[] {
  const programs = tcxNames(ifindex, direction);
  const ours = programs.findIndex((program) => program.startsWith('hp_'));
  const others = ours < 0 ? [] : programs.slice(0, ours);
  if (others.length === 0) return [];
  return [
    warning(
      `tc-${direction}:${name}`,
      `${others.map((program) => `"${program}"`).join(', ')} came before ours since it was attached, and hides from it what it does not pass on`,
      'see that it starts before the daemon; `homeproxy down` and `homeproxy up` put ours in front again',
    ),
  ];
}

/** In the order in which they run; none where the kernel has no tcx, or does not tell us. */
function tcxNames(ifindex: number, direction: TcDirection): string[] {
  try {
    return tcxQuery(ifindex, direction).map(({ programId }) => programInfo(programId).name);
  } catch (error) {
    if (['EINVAL', 'EPERM'].includes((error as { code?: string }).code ?? '')) return [];
    throw error;
  }
}

function xdpOwner(name: string, ifindex: number): Finding {
  const present = xdpQuery(ifindex);
  if (present === undefined) return ok(`xdp:${name}`, 'free');
  const program = programInfo(present.programId).name;
  if (program.startsWith('hp_')) return ok(`xdp:${name}`, `ours (${present.mode})`);
  return warning(
    `xdp:${name}`,
    `taken by "${program}" (id ${present.programId}), which we never replace`,
    'set `attach: tc` for that interface',
  );
}
