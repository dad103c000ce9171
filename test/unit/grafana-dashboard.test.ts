import { readFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { parse } from 'yaml';
import { projectFile } from '../../cli/system/project.js';
import { dashboardJson } from '../../config/grafana/dashboard.js';
import { ROWS } from '../../config/grafana/panels.js';
import { suite } from '../suite.js';

interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly description?: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets?: readonly { readonly expr: string; readonly refId: string }[];
}

const committed = readFileSync(projectFile('config/grafana/homeproxy.json'), 'utf8');
const { panels } = JSON.parse(committed) as { panels: Panel[] };
const readme = readFileSync(projectFile('README.md'), 'utf8');

const test = suite('the dashboard for Grafana');

test('in config/grafana is the one that the code makes', () => {
  assert.is(
    committed,
    dashboardJson(),
    'node dist/config/grafana/generate-dashboard.js >config/grafana/homeproxy.json',
  );
});

test('has every planned panel with its question and its queries, none over another', () => {
  const plans = ROWS.flatMap((row) => row.panels);
  const drawn = panels.filter(({ type }) => type !== 'row');
  assert.equal(
    drawn.map(({ title, description, targets = [] }) => [title, description, targets.map(({ expr }) => expr)]),
    plans.map(({ title, question, queries }) => [title, question, queries.map(({ expr }) => expr)]),
  );
  assert.is(new Set(panels.map(({ id }) => id)).size, panels.length);
  const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
    Array.from({ length: w * h }, (_, index) => `${x + (index % w)} ${y + Math.floor(index / w)}`),
  );
  assert.is(new Set(cells).size, cells.length, 'panels overlap');
});

test('is listed in the README, each panel with the question that it answers', () => {
  for (const { title, question } of ROWS.flatMap((row) => row.panels)) {
    assert.ok(readme.includes(`| ${title} | ${question} |`), `| ${title} | ${question} |`);
  }
});

test('has examples of provisioning that are YAML of the version that Grafana reads', () => {
  for (const name of ['datasource', 'dashboard']) {
    const text = readFileSync(projectFile(`config/grafana/provisioning/${name}.yaml`), 'utf8');
    assert.is((parse(text) as { apiVersion: number }).apiVersion, 1, name);
  }
});

test.run();
