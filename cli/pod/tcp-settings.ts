import { readFileSync } from 'node:fs';

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

/** The node's own, in pairs of a file below /proc/sys/net and its content; without those that this kernel has not. */
export function tcpSettings(): string[] {
  return SETTINGS.flatMap((name) => {
    try {
      return [name, readFileSync(`/proc/sys/net/${name}`, 'utf8').trim()];
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw error;
    }
  });
}
