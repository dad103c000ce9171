import { setTimeout as pause } from 'node:timers/promises';
import type { BaseLogger } from 'pino';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';

/** A collector that takes longer is left behind, and counted as failed. */
const COLLECTOR_MS = 5000;

export type PageLogger = Pick<BaseLogger, 'info' | 'warn' | 'error'>;

/** Metrics that one collector refreshes together before every scrape: all of them are on the page, or none. */
export class MetricGroup {
  readonly names: string[] = [];
  private work: () => void | Promise<void> = () => undefined;
  private running: Promise<void> | undefined;

  constructor(
    readonly name: string,
    private readonly registry: Registry,
  ) {}

  /** @param help what it counts, with its unit */
  counter<Label extends string = never>(name: string, help: string, labelNames: readonly Label[] = []): Counter<Label> {
    this.names.push(name);
    return new Counter({ name, help, labelNames: [...labelNames], registers: [this.registry] });
  }

  gauge<Label extends string = never>(name: string, help: string, labelNames: readonly Label[] = []): Gauge<Label> {
    this.names.push(name);
    return new Gauge({ name, help, labelNames: [...labelNames], registers: [this.registry] });
  }

  histogram<Label extends string = never>(
    name: string,
    help: string,
    buckets: readonly number[],
    labelNames: readonly Label[] = [],
  ): Histogram<Label> {
    this.names.push(name);
    return new Histogram({
      name,
      help,
      buckets: [...buckets],
      labelNames: [...labelNames],
      registers: [this.registry],
    });
  }

  /** What brings the group up to date. It reads first and writes afterwards, so that a failure leaves nothing half done. */
  refreshBy(work: () => void | Promise<void>): void {
    this.work = work;
  }

  /** @throws what the collector threw, or that it takes too long. */
  async refresh(limitMs: number): Promise<void> {
    if (this.running !== undefined) throw new Error('it has not ended since the last scrape');
    const { work } = this;
    const run = (async () => work())().finally(() => {
      this.running = undefined;
    });
    this.running = run;
    run.catch(() => undefined); // when it is left behind
    const over = new AbortController();
    const limit = pause(limitMs, undefined, { signal: over.signal }).then(() => {
      throw new Error(`it took longer than ${limitMs} ms`);
    });
    limit.catch(() => undefined);
    try {
      await Promise.race([run, limit]);
    } finally {
      over.abort();
    }
  }
}

/**
 * What Prometheus reads: every metric of this node in its text format. Collectors run when somebody asks. One that fails takes
 * its own metrics off the page, and nothing else; it is counted, and named in the log when it begins to fail.
 */
export class MetricsPage {
  readonly registry = new Registry();
  private readonly groups: MetricGroup[] = [];
  private readonly failing = new Set<string>();
  private readonly failures: Counter<'collector'>;
  private readonly durations: Gauge<'collector'>;
  private rendering: Promise<string> | undefined;

  constructor(
    private readonly logger?: PageLogger,
    private readonly limitMs = COLLECTOR_MS,
  ) {
    const registers = [this.registry];
    this.failures = new Counter({
      name: 'homeproxy_collector_failures_total',
      help: 'Scrapes in which a collector failed, so that its metrics are not on the page.',
      labelNames: ['collector'],
      registers,
    });
    this.durations = new Gauge({
      name: 'homeproxy_collector_duration_seconds',
      help: 'Time that each collector took for this scrape, in seconds.',
      labelNames: ['collector'],
      registers,
    });
  }

  get contentType(): string {
    return this.registry.contentType;
  }

  /** @param name of its collector, as the label of its failures */
  group(name: string): MetricGroup {
    const group = new MetricGroup(name, this.registry);
    this.groups.push(group);
    this.failures.inc({ collector: name }, 0);
    return group;
  }

  /** The page of this moment; those who ask while it is being made get the same one. */
  async render(): Promise<string> {
    this.rendering ??= this.make().finally(() => {
      this.rendering = undefined;
    });
    return await this.rendering;
  }

  private async make(): Promise<string> {
    const absent = new Set<string>();
    for (const group of this.groups) {
      const began = performance.now();
      try {
        await group.refresh(this.limitMs);
        this.wentWell(group.name);
      } catch (error) {
        for (const name of group.names) absent.add(name);
        this.wentWrong(group.name, error);
      }
      this.durations.set({ collector: group.name }, (performance.now() - began) / 1000);
    }
    const names = this.registry.getMetricsAsArray().map((metric) => (metric as unknown as { name: string }).name);
    const texts: string[] = [];
    for (const name of names.filter((each) => !absent.has(each)).sort(ownLast)) {
      try {
        texts.push(await this.registry.getSingleMetricAsString(name));
        this.wentWell(name);
      } catch (error) {
        this.wentWrong(name, error);
      }
    }
    return `${texts.join('\n\n')}\n`;
  }

  private wentWell(name: string): void {
    if (this.failing.delete(name)) this.logger?.info({ collector: name }, 'a collector of metrics works again');
  }

  private wentWrong(name: string, error: unknown): void {
    this.failures.inc({ collector: name });
    if (this.failing.has(name)) return;
    this.failing.add(name);
    this.logger?.error({ collector: name, err: error }, 'a collector of metrics fails: its metrics are not served');
  }
}

/** What tells about the collectors comes last, when all of them have run. */
function ownLast(left: string, right: string): number {
  const late = (name: string): number => (name.startsWith('homeproxy_collector_') ? 1 : 0);
  return late(left) - late(right) || (left < right ? -1 : 1);
}
