import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { parse, stringify } from 'yaml';
import { DAEMON_LOG } from '../../cli/lab/daemon.js';
import { migrateMethod } from '../../cli/node/control-methods.js';
import { callControl, streamControl } from '../../cli/node/control-transport.js';
import { drainMethod, explainMethod, undrainMethod } from '../../cli/node/policy-methods.js';
import { projectFile } from '../../cli/system/project.js';
import { prometheusPrograms } from '../prometheus-programs.js';
import { Scenario } from './scenario.js';

const CONFIG = '/etc/homeproxy/homeproxy.yaml';
const POLICIES = '/etc/homeproxy/policies.yaml';
const LIMIT_MS = 40_000;

export const DAEMONS = ['home', 'host1', 'host2'];

/** A lab whose home has the policies of README, and what its administrator does and sees there. */
export class PolicyScene {
  private constructor(readonly scenario: Scenario) {}

  static async start(purpose: string): Promise<PolicyScene> {
    const scene = new PolicyScene(await Scenario.start(purpose, { daemons: false }));
    const { home, client, lab } = scene.scenario;
    const config = home.path(CONFIG);
    const settings = parse(readFileSync(config, 'utf8')) as Record<string, unknown>;
    const nodes = (settings.nodes as { name: string }[]).map((node) =>
      node.name === 'host2' ? { ...node, labels: { for: 'batch' }, near: [`${client.address}/32`] } : node,
    );
    writeFileSync(config, stringify({ ...settings, nodes, policies: POLICIES }));
    scene.writePolicies(policyOfReadme());
    // the nodes of a lab share one kernel, its memory and its processors; a file system is really a node's own
    await home.run(['mount', '-o', 'remount,size=64m', '/var']);
    await Promise.all(DAEMONS.map((name) => lab.startDaemon(name)));
    return scene;
  }

  /** Replaces the file as a careful editor does. */
  writePolicies(text: string): void {
    const path = this.scenario.home.path(POLICIES);
    writeFileSync(`${path}.new`, text);
    renameSync(`${path}.new`, path);
  }

  async until<Value>(what: string, look: () => Promise<Value | undefined>): Promise<Value> {
    for (const deadline = Date.now() + LIMIT_MS; ; await sleep(100)) {
      const found = await look();
      if (found !== undefined) return found;
      if (Date.now() > deadline) {
        const log = readFileSync(this.scenario.home.path(DAEMON_LOG), 'utf8').split('\n').slice(-12).join('\n');
        throw new Error(`after ${LIMIT_MS} ms not yet: ${what}\n${log}`);
      }
    }
  }

  /** Where a process of home is now; undefined while it is on its way. */
  async placeOf(pid: number): Promise<string | undefined> {
    const { processes, status } = await this.scenario.ask('home');
    if (status.moving.includes(pid)) return undefined;
    return processes.find((row) => row.pid === pid && row.home === 'home')?.location ?? 'home';
  }

  async comesTo(pid: number, wanted: (place: string) => boolean): Promise<string> {
    return this.until(`process ${pid} moves`, async () => {
      const place = await this.placeOf(pid);
      return place !== undefined && wanted(place) ? place : undefined;
    });
  }

  /** As `homeproxy policy explain` asks, without the command in between: quicker, for those who ask often. */
  async explain(pid: number) {
    return callControl(this.socketOf('home'), explainMethod, { pid });
  }

  /** Why the process was last moved so: what the policy's condition found. */
  async reasonOf(pid: number, outcome: 'move' | 'return'): Promise<string> {
    const { decisions } = await this.explain(pid);
    return decisions.findLast((decision) => decision.outcome === outcome)?.why ?? `no ${outcome} was decided`;
  }

  /** A Prometheus on home, which scrapes home's daemon once a second. */
  async startPrometheus(): Promise<void> {
    const { home } = this.scenario;
    const { prometheus } = await prometheusPrograms();
    const scrape = { job_name: 'homeproxy', static_configs: [{ targets: ['127.0.0.1:7078'] }] };
    writeFileSync(
      home.path('/run/prometheus.yml'),
      stringify({ global: { scrape_interval: '1s' }, scrape_configs: [scrape] }),
    );
    const options = [
      '--config.file=/run/prometheus.yml',
      '--storage.tsdb.path=/run/prometheus',
      '--web.listen-address=127.0.0.1:9090',
    ];
    await home.detach([prometheus, ...options], { output: '/run/prometheus.log' });
  }

  socketOf(node: string): string {
    return this.scenario.lab.node(node).path('/run/homeproxy/control.sock');
  }

  async move(pid: number, to: string) {
    return streamControl(this.socketOf('home'), migrateMethod, { pid, to }, () => undefined);
  }

  async undrain(...nodes: string[]): Promise<void> {
    for (const host of nodes)
      assert.is((await callControl(this.socketOf('home'), undrainMethod, { host })).before, true);
  }

  async drainQuietly(node: string) {
    return streamControl(this.socketOf(node), drainMethod, { parallel: 2 }, () => undefined);
  }
}

/** The one whole file of README's chapter on policies. */
export function policyOfReadme(): string {
  const [, chapter = ''] = readFileSync(projectFile('README.md'), 'utf8').split('\n## Policies\n');
  const text = /^```yaml\n(.*?)^```$/ms.exec(chapter)?.[1];
  if (text === undefined) throw new Error('README has no policy file');
  return text;
}
