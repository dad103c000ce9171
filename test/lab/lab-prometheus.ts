import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parse, stringify } from 'yaml';
import type { Lab } from '../../cli/lab/lab.js';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { projectFile } from '../../cli/system/project.js';
import { prometheusPrograms } from '../prometheus-programs.js';
import { httpGet } from './http-get.js';
import { NodeCommand } from './node-command.js';

const FOLDER = '/tmp/prometheus';
const URL_BASE = 'http://127.0.0.1:9090';
const PATIENCE_MS = 30_000;

interface Series {
  readonly metric: Readonly<Record<string, string>>;
  readonly value?: readonly [number, string];
  readonly values?: readonly (readonly [number, string])[];
}

/** What a question to Prometheus came to. */
export interface QueryResult {
  readonly expr: string;
  readonly series: readonly Series[];
  /** What Prometheus said was wrong with it. */
  readonly error?: string;
}

/** A real Prometheus in the lab's client, with our rules, which scrapes every daemon once a second. */
export class LabPrometheus {
  private constructor(
    private readonly node: LabNode,
    private readonly command: NodeCommand,
  ) {}

  /** @param port where each daemon serves its metrics, on the node's own address */
  static async start(lab: Lab, port: number): Promise<LabPrometheus> {
    const { prometheus } = await prometheusPrograms();
    const node = lab.node('client');
    mkdirSync(node.path(FOLDER), { recursive: true });
    writeFileSync(node.path(`${FOLDER}/prometheus.yml`), stringify(configuration(lab, port)));
    const command = new NodeCommand(node, [
      prometheus,
      `--config.file=${FOLDER}/prometheus.yml`,
      `--storage.tsdb.path=${FOLDER}/data`,
      '--web.listen-address=127.0.0.1:9090',
    ]);
    await command.printed(/Server is ready to receive web requests/);
    return new LabPrometheus(node, command);
  }

  /** The expressions over the time since `from` (seconds since the epoch), as a dashboard asks for them. */
  async ranges(expressions: readonly string[], from: number): Promise<QueryResult[]> {
    const window = `start=${from.toFixed(3)}&end=${(Date.now() / 1000).toFixed(3)}&step=1`;
    return await this.ask(expressions, (query) => `query_range?query=${query}&${window}`);
  }

  /** The expressions now. */
  async now(expressions: readonly string[]): Promise<QueryResult[]> {
    return await this.ask(expressions, (query) => `query?query=${query}`);
  }

  /** Asks until every expression has a number; @returns those that have none after half a minute */
  async without(ask: () => Promise<readonly QueryResult[]>): Promise<QueryResult[]> {
    for (const deadline = Date.now() + PATIENCE_MS; ; await sleep(500)) {
      const empty = (await ask()).filter((result) => !hasNumber(result));
      if (empty.length === 0 || Date.now() > deadline) return empty;
    }
  }

  /** Waits until an expression has a result, and returns it. @throws {Error} when it never does */
  async until(expr: string): Promise<QueryResult> {
    const [empty] = await this.without(() => this.now([expr]));
    if (empty !== undefined)
      throw new Error(`no result: ${JSON.stringify(empty)}\n${this.command.stderr.slice(-2000)}`);
    return (await this.now([expr]))[0] as QueryResult;
  }

  /** Alerts that are pending or firing, with their annotations. */
  async alerts(): Promise<{ labels: Record<string, string>; annotations: Record<string, string>; state: string }[]> {
    const [answer] = await httpGet(this.node, `${URL_BASE}/api/v1/alerts`);
    return (JSON.parse(answer?.body ?? '') as { data: { alerts: never[] } }).data.alerts;
  }

  async stop(): Promise<void> {
    this.command.kill('SIGTERM');
    await this.command.ended;
  }

  private async ask(expressions: readonly string[], path: (query: string) => string): Promise<QueryResult[]> {
    const urls = expressions.map((expr) => `${URL_BASE}/api/v1/${path(encodeURIComponent(expr))}`);
    const answers = await httpGet(this.node, ...urls);
    return answers.map(({ status, body }, index) => {
      const expr = expressions[index] ?? '';
      if (status !== 200) return { expr, series: [], error: body };
      return { expr, series: (JSON.parse(body) as { data: { result: Series[] } }).data.result };
    });
  }
}

function hasNumber({ series }: QueryResult): boolean {
  const values = series.flatMap(({ value, values = [] }) => [...(value === undefined ? [] : [value]), ...values]);
  return values.some(([, text]) => Number.isFinite(Number(text)));
}

/** The example that we ship, quicker, and with the lab's nodes. */
function configuration(lab: Lab, port: number): unknown {
  const example = parse(readFileSync(projectFile('config/prometheus/prometheus.example.yml'), 'utf8')) as {
    rule_files: string[];
    scrape_configs: Record<string, unknown>[];
  };
  const daemons = lab.nodes.filter(({ role }) => role !== 'client');
  const targets = daemons.map(({ name, address }) => ({
    targets: [`${address}:${port}`],
    labels: { instance: name },
  }));
  return {
    ...example,
    global: { scrape_interval: '1s', evaluation_interval: '1s' },
    rule_files: example.rule_files.map((file) => projectFile(`config/prometheus/${file}`)),
    scrape_configs: example.scrape_configs.map((each) => ({ ...each, static_configs: targets })),
  };
}
