import type { ProcessDescription } from '../process/description.js';

/**
 * What a host sees of a process that is away, as its home must take it: alone in its pod it seems to have its ports for itself, and
 * at home others may have them too, as the parent has of which it was a child. Of such a port only its connections are its own.
 * @param atHome its description of before
 */
export function sharedAsAtHome(atHome: ProcessDescription, seen: ProcessDescription): ProcessDescription {
  const shared = atHome.ports.filter(({ exclusive }) => !exclusive);
  const isShared = ({ protocol, address, port }: ProcessDescription['ports'][number]): boolean =>
    shared.some((other) => other.protocol === protocol && other.address === address && other.port === port);
  if (!seen.ports.some(isShared)) return seen;
  const ports = seen.ports.map((port) => (isShared(port) ? { ...port, exclusive: false } : port));
  return { ...seen, ports, flows: [...seen.flows, ...atHome.flows] };
}
