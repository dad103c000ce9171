import { readdirSync, readFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { manual } from '../../cli/manual/manual.js';
import { entry, paragraphs, roff } from '../../cli/manual/roff.js';
import { projectFile } from '../../cli/system/project.js';
import { suite } from '../suite.js';

const test = suite('the manual page');

test('in config/man is the one that the commands make', async () => {
  const committed = readFileSync(projectFile('config/man/homeproxy.8'), 'utf8');
  assert.is(committed, await manual(), 'node dist/cli/manual/generate-manual.js >config/man/homeproxy.8');
});

test('has a section for each command, and no template is left in it', async () => {
  const page = await manual();
  for (const name of ['migrate', 'recall', 'lab up', 'ca issue', 'journal']) assert.match(page, `.SS ${name}`);
  assert.not.match(page, '<%');
  assert.not.match(page, '.SS autocomplete');
});

test('the manifest, by which commands are found, has every one of them', () => {
  const manifest = JSON.parse(readFileSync(projectFile('oclif.manifest.json'), 'utf8')) as { commands: object };
  const files = readdirSync(projectFile('dist/cli/commands'), { recursive: true, encoding: 'utf8' });
  const ids = files
    .filter((file) => file.endsWith('.js'))
    .map((file) => file.slice(0, -'.js'.length).replaceAll('/', ':'));
  assert.equal(Object.keys(manifest.commands).sort(), ids.sort(), 'npm run build:ts');
});

test('text cannot become a request of the formatter', () => {
  assert.is(roff(".so /etc/passwd\n'x\n-a\\b"), "\\&.so /etc/passwd\n\\&'x\n\\-a\\eb");
});

test('empty lines part paragraphs, line breaks count, backquotes are bold', () => {
  assert.is(paragraphs('a\nb\n\nsee `ps`'), 'a\n.br\nb\n.PP\nsee \\fBps\\fR');
  assert.is(entry('--json', 'for `jq`'), '.TP\n\\fB\\-\\-json\\fR\nfor \\fBjq\\fR');
});

test.run();
