import { readFileSync, writeFileSync } from 'node:fs';

/*
 * Ports that the kernel gives to no socket by itself (net.ipv4.ip_local_reserved_ports, for both families and all protocols;
 * Documentation/networking/ip-sysctl.rst). The list is of this network namespace and gone after a reboot.
 */
const RESERVED = '/proc/sys/net/ipv4/ip_local_reserved_ports';
const EPHEMERAL = '/proc/sys/net/ipv4/ip_local_port_range';

export interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** "8080,9148-9150" */
export function parseRanges(text: string): PortRange[] {
  return text
    .trim()
    .split(',')
    .filter((part) => part !== '')
    .map((part) => {
      const [first = 0, last = first] = part.split('-').map(Number);
      return { first, last };
    });
}

export function formatRanges(ranges: readonly PortRange[]): string {
  return ranges.map(({ first, last }) => (first === last ? `${first}` : `${first}-${last}`)).join(',');
}

/** The ranges and one more, in order, neighbours joined. */
export function addRange(ranges: readonly PortRange[], range: PortRange): PortRange[] {
  const joined: PortRange[] = [];
  for (const next of [...ranges, range].sort((left, right) => left.first - right.first)) {
    const previous = joined.at(-1);
    if (previous === undefined || previous.last + 1 < next.first) joined.push(next);
    else joined[joined.length - 1] = { first: previous.first, last: Math.max(previous.last, next.last) };
  }
  return joined;
}

export function removeRange(ranges: readonly PortRange[], { first, last }: PortRange): PortRange[] {
  return ranges.flatMap((range) => {
    if (range.last < first || range.first > last) return [range];
    const rests = [
      { first: range.first, last: first - 1 },
      { first: last + 1, last: range.last },
    ];
    return rests.filter((rest) => rest.first <= rest.last);
  });
}

/** The list as the kernel has it now. */
export function readReservedPorts(): PortRange[] {
  return parseRanges(readFileSync(RESERVED, 'utf8'));
}

/** Adds a range to what is reserved by others. */
export function reservePorts(range: PortRange): void {
  write(addRange(readReservedPorts(), range));
}

/** Takes a range out of the list; what others have reserved stays. */
export function releasePorts(range: PortRange): void {
  write(removeRange(readReservedPorts(), range));
}

/** From which the kernel takes the ports of sockets that ask for none. */
export function readEphemeralPorts(): PortRange {
  const [first = 32_768, last = 60_999] = readFileSync(EPHEMERAL, 'utf8').trim().split(/\s+/).map(Number);
  return { first, last };
}

function write(ranges: readonly PortRange[]): void {
  writeFileSync(RESERVED, `${formatRanges(ranges)}\n`);
}
