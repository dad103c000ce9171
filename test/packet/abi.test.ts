/** The generated TypeScript layout agrees with the object. */
import { readFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { generateAbi } from '../../cli/forwarding/generate-abi.js';
import { projectFile } from '../../cli/system/project.js';
import { test } from '../suite.js';

test('abi.gen.ts is what the type information of the object says', () => {
  const committed = readFileSync(projectFile('cli/forwarding/abi.gen.ts'), 'utf8');
  assert.is(committed, generateAbi(projectFile('bpf/build/homeproxy.bpf.o')));
});

test.run();
