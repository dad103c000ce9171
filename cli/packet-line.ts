import type { PacketEventRow } from './node/trace-method.js';

const PROTOCOLS: Readonly<Record<number, string>> = {
  1: 'icmp',
  4: 'ipip',
  6: 'tcp',
  17: 'udp',
  41: 'ipv6',
  58: 'icmpv6',
  132: 'sctp',
};

/** One packet in one line: `14:02:11.123Z xdp redirect tunnelled 10.0.0.1:5555 > 10.77.0.2:6379 tcp, 74 bytes, redis/42`. */
export function packetLine(event: PacketEventRow): string {
  const { time, hook, verdict, reason, interface: name, ifindex, length, pid, comm, suppressed } = event;
  const details = [`${flowText(event)}, ${length} bytes`];
  if (pid !== undefined) details.push(`${comm ?? ''}/${pid}`);
  if (name === undefined) details.push(`interface ${ifindex}`);
  if (suppressed > 0) details.push(`${suppressed} like it not shown`);
  const where = `${hook}${name === undefined ? '' : ` ${name}`}`;
  return [
    new Date(time).toISOString().slice(11),
    where.padEnd(13),
    verdict.padEnd(8),
    reason.padEnd(19),
    details.join(', '),
  ].join(' ');
}

function flowText({ flow, protocol }: PacketEventRow): string {
  if (flow === undefined) return 'no headers that we read';
  const ported = flow.source.port !== 0 || flow.destination.port !== 0;
  const [source, destination] = [flow.source, flow.destination].map(({ address, port }) => {
    if (!ported) return address;
    return flow.family === 6 ? `[${address}]:${port}` : `${address}:${port}`;
  });
  return `${source} > ${destination} ${PROTOCOLS[protocol] ?? `protocol ${protocol}`}`;
}
