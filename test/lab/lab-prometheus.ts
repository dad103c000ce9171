import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
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

/** A node that serves its metrics over TLS, with its own certificate, to those who know the password. */
export interface Guarded {
  readonly node: string;
  readonly password: string;
}

/**
 * A real Prometheus in the lab's client, with our rules, which scrapes every daemon once a second. Two more jobs ask the guarded node:
 * `wrong-password`, and `wrong-authority`, which does not know who signs its certificate.
 */
export class LabPrometheus {
  private constructor(
    private readonly node: LabNode,
    private readonly command: NodeCommand,
  ) {}

  /** @param port where each daemon serves its metrics, on the node's own address */
  static async start(lab: Lab, port: number, guarded: Guarded): Promise<LabPrometheus> {
    const { prometheus } = await prometheusPrograms();
    const node = lab.node('client');
    mkdirSync(node.path(FOLDER), { recursive: true });
    copyFileSync(lab.files.authorityCertificate, node.path(`${FOLDER}/homeproxy-ca.pem`));
    writeFileSync(node.path(`${FOLDER}/homeproxy.password`), guarded.password);
    writeFileSync(node.path(`${FOLDER}/prometheus.yml`), stringify(configuration(lab, port, guarded)));
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

  /** What went wrong when a job last scraped its only target; empty when nothing did. */
  async complaintOf(job: string): Promise<string> {
    const [answer] = await httpGet(this.node, `${URL_BASE}/api/v1/targets?scrapePool=${job}`);
    const { data } = JSON.parse(answer?.body ?? '') as { data: { activeTargets: { lastError: string }[] } };
    return data.activeTargets.map(({ lastError }) => lastError).join();
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

interface Example {
  readonly rule_files: readonly string[];
  readonly scrape_configs: readonly { readonly job_name: string; readonly basic_auth?: object }[];
}

/** What the example has as comments, for nodes with TLS and a password. */
const COMMENTED = /^( {4})# (?= *\w+:( |$))/gm;

/** The example that we ship, quicker, and with the lab's nodes. */
function configuration(lab: Lab, port: number, guarded: Guarded): unknown {
  const text = readFileSync(projectFile('config/prometheus/prometheus.example.yml'), 'utf8');
  const open = parse(text) as Example;
  const secured = parse(text.replace(COMMENTED, '$1').replaceAll('/etc/prometheus', FOLDER)) as Example;
  const daemons = lab.nodes.filter(({ role }) => role !== 'client');
  const targets = (isGuarded: boolean, job: string) =>
    daemons
      .filter(({ name }) => (name === guarded.node) === isGuarded)
      .map(({ name, address }) => ({ targets: [`${address}:${port}`], labels: { instance: name, job } }));
  return {
    ...open,
    global: { scrape_interval: '1s', evaluation_interval: '1s' },
    rule_files: open.rule_files.map((file) => projectFile(`config/prometheus/${file}`)),
    scrape_configs: [
      ...open.scrape_configs.map((each) => ({ ...each, static_configs: targets(false, each.job_name) })),
      ...secured.scrape_configs.flatMap((each) => {
        const job = (job_name: string, change: object) => ({
          ...each,
          job_name,
          static_configs: targets(true, job_name),
          ...change,
        });
        return [
          job('guarded', { static_configs: targets(true, each.job_name) }), // the rules are about nodes of this job
          job('wrong-password', { basic_auth: { username: 'prometheus', password: `${guarded.password}x` } }),
          job('wrong-authority', { tls_config: {} }),
        ];
      }),
    ],
  };
}
