import { isIPv6 } from 'node:net';
import type { MetricsSettings } from '../config/metrics-schema.js';
import type { MigrationEnd } from '../migration/ends.js';
import type { Journal } from '../migration/journal.js';
import { addForwardingMetrics, type ForwardingSources } from './forwarding-metrics.js';
import { createMetricsServer, type MetricsServer } from './http-server.js';
import { addJournalMetrics } from './journal-metrics.js';
import { MigrationMetrics } from './migration-metrics.js';
import { addNodeMetrics, type NodeFacts } from './node-metrics.js';
import { MetricsPage, type PageLogger } from './page.js';
import { type Peer, PeerMetrics } from './peer-metrics.js';
import { addPolicyMetrics, type PolicySources } from './policy-metrics.js';
import { readSecrets } from './secrets.js';

/** Where the metrics come from. */
export interface MonitoringSources extends Omit<ForwardingSources, 'peers' | 'maxProcesses'>, PolicySources {
  readonly facts: NodeFacts;
  readonly journal: Journal;
  readonly peers: readonly Peer[];
  /** Home pids of the processes that are on their way now. */
  moving(): readonly number[];
}

/** Whether the metrics are served, as `homeproxy status` shows it. */
export type MonitoringStatus =
  | { readonly state: 'off' }
  | { readonly state: 'served'; readonly url: string }
  | { readonly state: 'failed'; readonly url: string; readonly error: string };

/** Between two attempts to listen. */
const AGAIN_MS = 10_000;

/**
 * The metrics of a node. Nothing of it can keep the daemon from its work: what stands in the way of serving them (a port that is
 * taken, a certificate that cannot be read) is logged, shown by `homeproxy status`, and tried again.
 */
export class Monitoring {
  readonly page: MetricsPage;
  private readonly migrations: MigrationMetrics;
  private readonly peers: PeerMetrics;
  private readonly endWatching: () => void;
  private server: MetricsServer | undefined;
  private timer: NodeJS.Timeout | undefined;
  private closed = false;
  private current: MonitoringStatus = { state: 'off' };

  constructor(
    private readonly settings: MetricsSettings,
    sources: MonitoringSources,
    private readonly logger: PageLogger,
    private readonly againMs = AGAIN_MS,
  ) {
    this.page = new MetricsPage(logger);
    addNodeMetrics(this.page, sources.facts);
    addForwardingMetrics(this.page, {
      counters: () => sources.counters(),
      census: () => sources.census(),
      processes: () => sources.processes(),
      uplinks: () => sources.uplinks(),
      peers: sources.peers.map(({ name }) => name),
      parkPackets: sources.parkPackets,
      maxProcesses: settings.maxProcesses,
    });
    this.migrations = new MigrationMetrics(this.page, () => sources.moving());
    this.endWatching = addJournalMetrics(this.page, sources.journal);
    addPolicyMetrics(this.page, { policies: () => sources.policies(), draining: () => sources.draining() });
    this.peers = new PeerMetrics(this.page, sources.peers);
  }

  get status(): MonitoringStatus {
    return this.current;
  }

  observe(end: MigrationEnd): void {
    this.migrations.observe(end);
  }

  /** Serves the page, if the settings want it, and begins to ask the other nodes. Never throws. */
  async start(): Promise<void> {
    if (!this.settings.enabled) return;
    this.peers.start();
    await this.listen();
  }

  async close(): Promise<void> {
    this.closed = true;
    clearTimeout(this.timer);
    this.endWatching();
    this.peers.close();
    await this.server?.close();
  }

  private async listen(): Promise<void> {
    const { listen, port, tls } = this.settings;
    const host = isIPv6(listen) ? `[${listen}]` : listen;
    const url = `${tls === undefined ? 'http' : 'https'}://${host}:${port}/metrics`;
    try {
      const secrets = await readSecrets(this.settings);
      const server = await createMetricsServer({
        page: this.page,
        address: listen,
        port,
        ...secrets,
        logger: this.logger,
      });
      if (this.closed) return await server.close();
      this.server = server;
      this.current = { state: 'served', url };
      this.logger.info({ url }, 'serving metrics');
      setImmediate(() => void this.page.render()); // the first page takes several times as long: Node.js compiles what makes it
    } catch (error) {
      const said = reasonOf(error, this.settings);
      if (this.current.state !== 'failed' || this.current.error !== said) {
        this.logger.error({ url, err: error }, `the metrics are not served: ${said}; everything else works`);
      }
      this.current = { state: 'failed', url, error: said };
      if (this.closed) return;
      this.timer = setTimeout(() => void this.listen(), this.againMs);
      this.timer.unref();
    }
  }
}

function reasonOf(error: unknown, { listen, port }: MetricsSettings): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === 'EADDRINUSE') return `another program listens on ${listen} port ${port} (metrics.port)`;
  if (code === 'EADDRNOTAVAIL') return `no interface of this machine has the address ${listen} (metrics.listen)`;
  return message;
}
