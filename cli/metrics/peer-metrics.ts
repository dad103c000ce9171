import { setTimeout as pause } from 'node:timers/promises';
import type { MetricsPage } from './page.js';

/** Another node of the configuration. */
export interface Peer {
  readonly name: string;
  /** Rejects when it does not answer, or does not trust us. */
  ping(): Promise<void>;
}

/** Between two rounds of asking everybody. */
const ROUND_MS = 10_000;
/** Asked at a time, so that a thousand nodes are not called at once. */
const AT_A_TIME = 8;

interface Health {
  readonly up: boolean;
  readonly roundTripMs: number;
  /** Milliseconds since the epoch; 0: never. */
  readonly lastSeen: number;
}

/**
 * Asks every other node regularly whether it answers and trusts us. A scrape shows what was found last and waits for nobody; a
 * node that was not asked yet is absent.
 */
export class PeerMetrics {
  private readonly health = new Map<string, Health>();
  private readonly closing = new AbortController();

  constructor(
    page: MetricsPage,
    private readonly peers: readonly Peer[],
  ) {
    const group = page.group('peers');
    const up = group.gauge('homeproxy_peer_up', '1: the node answered when it was last asked, and trusts us.', [
      'peer',
    ]);
    const roundTrip = group.gauge(
      'homeproxy_peer_round_trip_seconds',
      'How long the last answer of a node took, in seconds.',
      ['peer'],
    );
    const seen = group.gauge(
      'homeproxy_peer_last_seen_timestamp_seconds',
      'When a node answered last, in seconds since the epoch; 0: not since this daemon started.',
      ['peer'],
    );
    group.refreshBy(() => {
      for (const metric of [up, roundTrip, seen]) metric.reset();
      for (const [peer, health] of this.health) {
        up.set({ peer }, health.up ? 1 : 0);
        if (health.up) roundTrip.set({ peer }, health.roundTripMs / 1000);
        seen.set({ peer }, health.lastSeen / 1000);
      }
    });
  }

  /** Begins to ask. @param roundMs pause between two rounds */
  start(roundMs = ROUND_MS): void {
    this.run(roundMs).catch(() => undefined); // closed
  }

  close(): void {
    this.closing.abort();
  }

  private async run(roundMs: number): Promise<void> {
    const { signal } = this.closing;
    while (!signal.aborted) {
      const waiting = [...this.peers];
      const lane = async (): Promise<void> => {
        for (let peer = waiting.shift(); peer !== undefined && !signal.aborted; peer = waiting.shift()) {
          await this.ask(peer);
        }
      };
      await Promise.all(Array.from({ length: AT_A_TIME }, lane));
      await pause(roundMs, undefined, { signal, ref: false });
    }
  }

  private async ask(peer: Peer): Promise<void> {
    const began = performance.now();
    const up = await peer.ping().then(
      () => true,
      () => false,
    );
    const lastSeen = up ? Date.now() : (this.health.get(peer.name)?.lastSeen ?? 0);
    this.health.set(peer.name, { up, roundTripMs: performance.now() - began, lastSeen });
  }
}
