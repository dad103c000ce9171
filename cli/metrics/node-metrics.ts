import { collectDefaultMetrics } from 'prom-client';
import type { MetricsPage } from './page.js';

/** Delays of the event loop are sampled so often; every sample wakes the daemon up. */
const SAMPLE_MS = 100;

export interface NodeFacts {
  readonly node: string;
  readonly address: string;
  readonly version: string;
  /** When the first of the certificates for the other nodes expires; they may be renewed. */
  certificateExpires(): Date;
}

/** What this node is, and how its daemon fares. */
export function addNodeMetrics(page: MetricsPage, facts: NodeFacts): void {
  const { node, address, version } = facts;
  const group = page.group('node');
  group
    .gauge('homeproxy_build_info', 'Version of homeproxy and of the Node.js that runs it; always 1.', [
      'version',
      'nodejs',
    ])
    .set({ version, nodejs: process.version }, 1);
  group
    .gauge('homeproxy_node_info', 'Name and address of this node; always 1.', ['name', 'address'])
    .set({ name: node, address }, 1);
  const expiry = group.gauge(
    'homeproxy_certificate_expiry_timestamp_seconds',
    'When the certificates by which nodes trust each other expire, in seconds since the epoch.',
  );
  group.refreshBy(() => expiry.set(facts.certificateExpires().getTime() / 1000));
  collectDefaultMetrics({ register: page.registry, eventLoopMonitoringPrecision: SAMPLE_MS });
}
