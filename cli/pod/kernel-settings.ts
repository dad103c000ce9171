import { readFileSync, writeFileSync } from 'node:fs';
import { ExternalError } from '../errors.js';

/** A file below /proc/sys/net, and its content. */
export type Setting = readonly [name: string, value: string];

/**
 * What decides about the sockets of a process and is kept for each network namespace: a new one begins with the kernel's
 * defaults, or with those of the machine (tcp_sk_init), whatever the node's administrator has set. Files below /proc/sys/net.
 */
const SETTINGS = [
  'core/somaxconn',
  'ipv4/ip_unprivileged_port_start',
  ...[
    'congestion_control',
    'ecn',
    'fin_timeout',
    'keepalive_intvl',
    'keepalive_probes',
    'keepalive_time',
    'max_syn_backlog',
    'mtu_probing',
    'notsent_lowat',
    'retries2',
    'rmem',
    'slow_start_after_idle',
    'syn_retries',
    'synack_retries',
    'tw_reuse',
    'wmem',
  ].map((name) => `ipv4/tcp_${name}`),
];

/** The node's own; without those that this kernel has not. */
export function tcpSettings(): Setting[] {
  return SETTINGS.flatMap((name): Setting[] => {
    try {
      return [[name, readFileSync(`/proc/sys/net/${name}`, 'utf8').trim()]];
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw error;
    }
  });
}

/**
 * Writes settings of the network namespace of this thread: whose files /proc/sys/net shows is who looks (net_ctl_header_lookup).
 * @throws {ExternalError} `POD_FAILED`
 */
export function writeSettings(settings: readonly Setting[]): void {
  for (const [name, value] of settings) {
    try {
      writeFileSync(`/proc/sys/net/${name}`, value);
    } catch (error) {
      throw new ExternalError({
        code: 'POD_FAILED',
        message: `a pod cannot have ${value} as its ${name}: ${(error as Error).message}`,
        command: `write /proc/sys/net/${name}`,
      });
    }
  }
}

/** The same for what is not worth a failure: only the machine's own namespace may choose some kinds of congestion control. */
export function takeSettings(settings: readonly Setting[]): void {
  for (const [name, value] of settings) {
    try {
      const path = `/proc/sys/net/${name}`;
      if (readFileSync(path, 'utf8').trim() !== value) writeFileSync(path, value);
    } catch {
      // it is as in any new namespace
    }
  }
}
