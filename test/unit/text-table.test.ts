import { ux } from '@oclif/core';
import * as assert from 'uvu/assert';
import { errorText, jsonLine } from '../../cli/error-report.js';
import { ExternalError } from '../../cli/errors.js';
import { textTable } from '../../cli/text-table.js';
import { test } from '../suite.js';

test('columns are aligned under capital heads, without lines, colours or spaces at the end', () => {
  assert.is(
    textTable(
      ['pid', 'command', 'where'],
      [
        [1, 'redis-server', 'home'],
        [31337, 'sh', ''],
      ],
    ),
    ['PID    COMMAND       WHERE', '1      redis-server  home', '31337  sh'].join('\n'),
  );
});

test('a table without rows is its head', () => {
  assert.is(textTable(['node', 'address'], []), 'NODE  ADDRESS');
});

test('every row is one line that can be split at double spaces', () => {
  const rows = Array.from({ length: 50 }, (_, index) => [index, 'x'.repeat(index), `end${index}`]);
  const lines = textTable(['a', 'b', 'c'], rows).split('\n');
  assert.is(lines.length, 51);
  for (const [index, line] of lines.slice(1).entries()) {
    assert.equal(
      line.split(/\s{2,}/).filter(Boolean),
      [String(index), 'x'.repeat(index), `end${index}`].filter(Boolean),
    );
  }
});

test('a process cannot speak to the terminal by its name, be it in a table, an error or a line of JSON', () => {
  const name = '\u001b]0;root\u0007\u001b[8mdb\r\u009b2J\u202e';
  const error = new ExternalError({ code: 'X', message: name, command: name, log: [name], remedy: name });
  const json = jsonLine({ name });
  for (const text of [textTable(['name'], [[name]]), errorText(error), json]) {
    assert.match(text, 'db');
    const ours = text.replaceAll(ux.colorize('red', 'error X:'), ''); // where colours are on
    assert.not.match(ours, /[^\P{Cc}\n]/u);
  }
  assert.equal(JSON.parse(json), { name });
});

test.run();
