import type { Traffic } from '../forwarding/census.js';

/** A process that is bound on this node. */
export interface ProcessSeen {
  /** Names it among all nodes, once and for ever. */
  readonly twin: string;
  readonly home: string;
  /** Its pid at home. */
  readonly pid: number;
  readonly comm: string;
  /** Number of its binding on this node. */
  readonly binding: number;
  readonly role: 'departed' | 'resident' | 'moving';
  /** The node where it runs. */
  readonly location: string;
  readonly ports: number;
  readonly flows: number;
}

type TrafficByReason = ReadonlyMap<string, Traffic>;

interface SeriesRow {
  readonly labels: { readonly home: string; readonly pid: string; readonly comm: string };
  readonly traffic: TrafficByReason;
}

const OTHERS = { home: 'other', pid: 'other', comm: 'other' };

/**
 * Bounds how many time series the processes make: the first so many that come have counters of their own until they go; a
 * place that becomes free goes to the next. All others are summed. A sum that shrank when one of its processes goes would
 * look like a restart to Prometheus, so what they count is added up here, from scrape to scrape.
 */
export class ProcessSeries {
  private readonly places = new Set<string>();
  /** Of each process without a place: what it had counted at the last scrape. */
  private last = new Map<string, TrafficByReason>();
  private readonly others = new Map<string, Traffic>();

  constructor(private readonly most: number) {}

  /** @param traffic of every binding, by its number */
  update(seen: readonly ProcessSeen[], traffic: ReadonlyMap<number, TrafficByReason>): SeriesRow[] {
    this.assign(seen);
    const rows: SeriesRow[] = [];
    const last = new Map<string, TrafficByReason>();
    for (const { twin, home, pid, comm, binding } of seen) {
      const own = traffic.get(binding) ?? new Map<string, Traffic>();
      if (this.places.has(twin)) {
        rows.push({ labels: { home, pid: String(pid), comm }, traffic: own });
      } else {
        last.set(twin, own);
        this.addToOthers(own, this.last.get(twin));
      }
    }
    this.last = last;
    if (this.others.size > 0) rows.push({ labels: OTHERS, traffic: new Map(this.others) });
    return rows;
  }

  /** Those with counters of their own. */
  own(seen: readonly ProcessSeen[]): ProcessSeen[] {
    return seen.filter(({ twin }) => this.places.has(twin));
  }

  private assign(seen: readonly ProcessSeen[]): void {
    const present = new Set(seen.map(({ twin }) => twin));
    for (const twin of this.places) if (!present.has(twin)) this.places.delete(twin);
    for (const twin of present) {
      if (this.places.size >= this.most) return;
      this.places.add(twin);
    }
  }

  private addToOthers(now: TrafficByReason, before: TrafficByReason | undefined): void {
    for (const [reason, { packets, bytes }] of now) {
      const seen = before?.get(reason) ?? { packets: 0, bytes: 0 };
      const sum = this.others.get(reason) ?? { packets: 0, bytes: 0 };
      this.others.set(reason, {
        packets: sum.packets + Math.max(0, packets - seen.packets),
        bytes: sum.bytes + Math.max(0, bytes - seen.bytes),
      });
    }
  }
}
