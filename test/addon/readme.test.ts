// SPDX-License-Identifier: Apache-2.0
import { spawnSync } from 'node:child_process';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import * as assert from 'uvu/assert';
import { suite } from '../suite.js';
import { compile, veth } from './fixture.js';
import { folder } from './private-namespaces.js';

const test = suite('readme');
const text = readFileSync(new URL('../../../addon/README.md', import.meta.url), 'utf8');
const library = new URL('../../addon/lib/index.js', import.meta.url).href;
const examples = text.split(/^## /m).flatMap((section) => {
  const match = /```ts\n([\s\S]*?)```\n\n```text\n([\s\S]*?)```/.exec(section);
  return match === null ? [] : [{ title: section.split('\n', 1)[0], code: match[1] ?? '', printed: match[2] ?? '' }];
});

test.before(() => {
  copyFileSync(compile('sample'), join(folder, 'sample.o'));
  veth('near', 'far');
});

test('every block of code has what it prints beside it', () => {
  assert.is(examples.length, text.match(/^```ts$/gm)?.length);
  assert.is(examples.length >= 7, true);
});

for (const { title, code, printed } of examples) {
  test(`${title}: prints what it says`, () => {
    const options = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext };
    const script = ts
      .transpileModule(code, { compilerOptions: options })
      .outputText.replaceAll("'addon'", JSON.stringify(library));
    const file = join(folder, 'example.mjs');
    writeFileSync(file, script);
    const run = spawnSync(process.execPath, [file], { cwd: folder, encoding: 'utf8', timeout: 20_000 });
    assert.is(run.stderr, '');
    assert.is(run.stdout, printed);
    assert.is(run.status, 0);
  });
}

test.run();
