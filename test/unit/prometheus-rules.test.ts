// limit: 400 s
import { readFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { parse } from 'yaml';
import { run } from '../../cli/system/command.js';
import { projectFile } from '../../cli/system/project.js';
import { prometheusPrograms } from '../prometheus-programs.js';
import { suite } from '../suite.js';

interface Rule {
  readonly alert?: string;
  readonly record?: string;
  readonly expr: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
}

const CONFIG = projectFile('config/prometheus/prometheus.example.yml');
const CASES = projectFile('test/unit/prometheus/rules.test.yml');
const cases = readFileSync(CASES, 'utf8');

function rulesOf(file: string): Rule[] {
  const text = readFileSync(projectFile(`config/prometheus/${file}`), 'utf8');
  return (parse(text) as { groups: { rules: Rule[] }[] }).groups.flatMap(({ rules }) => rules);
}
const alerts = rulesOf('homeproxy.alerts.yml');
const records = rulesOf('homeproxy.rules.yml');

const test = suite('the rules for Prometheus');
let promtool: string;

test.before(async () => {
  ({ promtool } = await prometheusPrograms());
});

test('are valid, and so is the example of a configuration with them', async () => {
  const { stdout, stderr } = await run(promtool, ['check', 'config', CONFIG]);
  assert.match(`${stdout}${stderr}`, `${alerts.length} rules found`);
  assert.match(`${stdout}${stderr}`, `${records.length} rules found`);
});

test('record and raise what they should, and nothing else', async () => {
  const { stdout, stderr } = await run(promtool, ['test', 'rules', CASES]);
  assert.match(`${stdout}${stderr}`, /SUCCESS/);
});

test('each have a case: an alert one in which it fires, a record one with its value', () => {
  for (const { alert } of alerts) assert.match(cases, `ALERTS{alertname="${alert}", alertstate="firing"`, alert);
  for (const { record } of records) assert.ok(cases.includes(`${record}`), record);
});

test('alerts say what has happened, what to do and how urgent it is, with labels that they have', () => {
  for (const { alert = '', labels, annotations = {} } of alerts) {
    assert.match(labels?.severity ?? '', /^(warning|critical)$/, alert);
    assert.equal(Object.keys(annotations), ['summary', 'description'], alert);
    const [fired = ''] = new RegExp(`ALERTS\\{alertname="${alert}", alertstate="firing"[^}]*\\}`).exec(cases) ?? [];
    for (const [, label] of Object.values(annotations)
      .join(' ')
      .matchAll(/\$labels\.(\w+)/g)) {
      assert.match(fired, ` ${label}="`, `${alert} speaks of ${label}`);
    }
    assert.match(
      annotations.description ?? '',
      /`homeproxy |homeproxy\.yaml|log of the daemon/,
      `${alert}: what to do`,
    );
  }
});

test.run();
