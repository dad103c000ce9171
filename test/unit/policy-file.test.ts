import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { UserError } from '../../cli/errors.js';
import { isSelective, matchesGlob } from '../../cli/policy/glob.js';
import { policyJsonSchema } from '../../cli/policy/json-schema.js';
import { loadPolicies, parsePolicies } from '../../cli/policy/policy-file.js';
import { amountText, bytesText, durationText } from '../../cli/policy/quantity.js';
import { suite } from '../suite.js';

const root = new URL('../../../', import.meta.url);
const EXAMPLE = fileURLToPath(new URL('config/policy.example.yaml', root));
const NODES = [{ name: 'home' }, { name: 'host1', labels: { rack: 'r1' } }, { name: 'host2', labels: { rack: 'r2' } }];

const test = suite('policy file');

function problems(text: string): string[] {
  try {
    parsePolicies(text, 'p.yaml', NODES);
  } catch (error) {
    assert.instance(error, UserError, String((error as Error).stack));
    assert.equal([(error as UserError).code, (error as UserError).exitStatus], ['POLICY_INVALID', 2]);
    return (error as UserError).message.split('\n');
  }
  return [];
}

/** A policy with these lines after its name and processes. */
function policy(...lines: string[]): string {
  return ['policies:', '  - name: p', '    processes: [{name: a}]', ...lines.map((line) => `    ${line}`), ''].join(
    '\n',
  );
}

test('what a small file does not say has its default, in milliseconds and bytes', () => {
  assert.equal(parsePolicies(policy('when: {loadPerCpu: {above: 2}, for: 90s}'), 'p'), {
    everyMs: 5000,
    policies: [
      {
        name: 'p',
        processes: [{ name: 'a' }],
        from: 'home',
        when: { path: 'when', forMs: 90_000, kind: 'loadPerCpu', bound: { side: 'above', value: 2 } },
        until: undefined,
        where: { home: 'never', not: [], cpu: [], apartFrom: [], prefer: 'most-free-memory' },
        how: {},
        limits: { cooldownMs: 600_000, atOnce: 1, moves: 10, perMs: 3_600_000 },
      },
    ],
  });
});

test('how they move is what the coordinator is told', () => {
  const how = (text: string) => parsePolicies(policy('when: {draining: true}', `how: ${text}`), 'p').policies[0]?.how;
  assert.equal(how('{maxFreeze: 2s, mode: stop-and-copy, files: carry, carry: [/srv/a]}'), {
    maxFreezeMs: 2000,
    copyAhead: false,
    carry: { paths: ['/srv/a'] },
  });
  assert.equal(how('{maxFreeze: 500ms, throttle: 25%}'), { maxFreezeMs: 500, throttle: 25 });
  assert.equal(how('{mode: copy-ahead, files: shared}'), {});
  assert.equal(how('{mode: post-copy}'), { postCopy: true });
  assert.equal(how('{mode: post-copy, throttle: 25%}'), { postCopy: true, throttle: 25 });
  assert.equal(how('{files: carry}'), { carry: { paths: [] } });
});

test('the example is right and shows every setting', async () => {
  const { policies } = await loadPolicies(EXAMPLE);
  assert.equal(
    policies.map(({ name }) => name),
    ['cache-flees', 'nights', 'owner-is-back', 'when-prometheus-says'],
  );
  const text = readFileSync(EXAMPLE, 'utf8');
  const visit = (schema: Record<string, unknown>): void => {
    for (const [key, value] of Object.entries((schema.properties ?? {}) as Record<string, Record<string, unknown>>)) {
      assert.match(text, new RegExp(`(^|[ {-])${key}:( |$)`, 'm'), key);
      visit(value);
    }
    if (schema.items !== undefined) visit(schema.items as Record<string, unknown>);
    for (const definition of Object.values((schema.definitions ?? {}) as Record<string, Record<string, unknown>>)) {
      visit(definition);
    }
  };
  visit(JSON.parse(policyJsonSchema()) as Record<string, unknown>);
});

test('the JSON schema in config/ is the one that the code describes', () => {
  assert.is(readFileSync(new URL('config/policy.schema.json', root), 'utf8'), policyJsonSchema());
});

const faults: [description: string, text: string, expected: (string | RegExp)[]][] = [
  ['an empty file', '', ['p.yaml:1:1: policies: is missing']],
  ['no list', 'policies: yes\n', ['p.yaml:1:11: policies: must be a list']],
  [
    'an unknown key',
    policy('when: {draining: true}', 'whither: {}'),
    ['p.yaml:5:5: policies[0].whither: is not a known setting'],
  ],
  [
    'a process of which nothing is said',
    'policies:\n  - name: p\n    processes: [{}]\n    when: {draining: true}\n',
    ['p.yaml:3:17: policies[0].processes[0]: must say something about the process: no policy is about every process'],
  ],
  [
    'a pattern that matches everything',
    'policies:\n  - name: p\n    processes: [{name: "*"}]\n    when: {draining: true}\n',
    ['p.yaml:3:24: policies[0].processes[0].name: must hold more than wildcards'],
  ],
  [
    'two names that are the same',
    `${policy('when: {draining: true}')}  - {name: p, processes: [{name: b}], when: {draining: true}}\n`,
    ['p.yaml:5:12: policies[1].name: is used twice: "p"'],
  ],
  [
    'two kinds in one condition',
    policy('when: {draining: true, loadPerCpu: {above: 1}}'),
    [/^p\.yaml:4:11: policies\[0\]\.when: must be exactly one of all, any, .*; it is loadPerCpu and draining$/],
  ],
  [
    'a condition that says nothing',
    policy('when:', '  all:', '    - {for: 3s}'),
    [/^p\.yaml:6:11: policies\[0\]\.when\.all\[0\]: must be exactly one of .*; it is nothing$/],
  ],
  [
    'labels alone',
    'policies:\n  - name: p\n    processes: [{labels: {tier: cache}}]\n    when: {draining: true}\n',
    [
      'p.yaml:3:26: policies[0].processes[0].labels: needs user, unit or cgroup beside it: anybody can label what he starts',
    ],
  ],
  [
    'names of labels, and values',
    'policies:\n  - name: p\n    processes: [{user: a, labels: {-t: x, u: [], v: 1}}]\n    when: {draining: true}\n',
    [
      /^p\.yaml:3:40: policies\[0\]\.processes\[0\]\.labels\.-t: names a label that must be letters, digits and /,
      /^p\.yaml:3:46: policies\[0\]\.processes\[0\]\.labels\.u: /,
      'p.yaml:3:53: policies[0].processes[0].labels.v: must be text, or a list of texts',
    ],
  ],
  [
    'a home that is left and gone to',
    policy('when: {draining: true}', 'where: {home: first}'),
    ['p.yaml:5:19: policies[0].where.home: needs a `from` that is not home: what is at home cannot go there'],
  ],
  [
    'nodes to leave that there are not',
    policy('when: {draining: true}', 'from: [host1, rack*]'),
    ['p.yaml:5:19: policies[0].from[1]: matches no node: home, host1, host2'],
  ],
  [
    'another place to leave, and another owner',
    policy('when: {owner: {is: back, within: 1s}}', 'from: away'),
    [
      'p.yaml:4:24: policies[0].when.owner.is: must be present or absent',
      'p.yaml:4:38: policies[0].when.owner.within: must be at least 10s',
      'p.yaml:5:11: policies[0].from: must be home, hosts, anywhere or a list of names of nodes',
    ],
  ],
  [
    'labels that no node has',
    policy('when: {draining: true}', 'where: {labels: {rack: [r1, r3], disk: ssd}, notLabels: {rack: r4}}'),
    [
      'p.yaml:5:44: policies[0].where.labels.disk: matches no node of the configuration: none has it',
      'p.yaml:5:68: policies[0].where.notLabels.rack: matches no node of the configuration: they have r1 (host1), r2 (host2)',
    ],
  ],
  [
    'an instruction set that nobody has',
    policy('when: {draining: true}', 'where: {cpu: [avx2, svm]}'),
    [
      'p.yaml:5:25: policies[0].where.cpu[1]: must be an instruction set as /proc/cpuinfo names it, for example avx2 or sve',
    ],
  ],
  [
    'files and modes that there are not',
    policy('when: {draining: true}', 'how: {mode: live, files: copy, carry: [srv]}'),
    [
      'p.yaml:5:17: policies[0].how.mode: must be copy-ahead, stop-and-copy or post-copy',
      'p.yaml:5:30: policies[0].how.files: must be shared or carry',
      'p.yaml:5:44: policies[0].how.carry[0]: must be an absolute path',
    ],
  ],
  [
    'paths to carry, and no files that are',
    policy('when: {draining: true}', 'how: {carry: [/srv]}'),
    ['p.yaml:5:18: policies[0].how.carry: needs `files: carry` beside it'],
  ],
  [
    'a pace at which nothing could go on',
    policy('when: {draining: true}', 'how: {maxFreeze: 1s, throttle: 5%}'),
    ['p.yaml:5:36: policies[0].how.throttle: must be a percentage from 10% to 99%, for example 25%'],
  ],
  [
    'a slower pace, and nothing that is copied meanwhile',
    policy('when: {draining: true}', 'how: {mode: stop-and-copy, throttle: 25%}'),
    [
      'p.yaml:5:42: policies[0].how.throttle: says nothing with `mode: stop-and-copy`: in the freeze there is nothing to slow down',
    ],
  ],
  ['an empty list', policy('when: {any: []}'), ['p.yaml:4:17: policies[0].when.any: must list at least one condition']],
  [
    'a bound on both sides, deep inside',
    policy('when:', '  not:', '    any:', '      - loadPerCpu: {above: 1, below: 2}'),
    ['p.yaml:7:25: policies[0].when.not.any[0].loadPerCpu: must have either above or below'],
  ],
  [
    'a time without unit',
    policy('when: {draining: true, for: 30}'),
    ['p.yaml:4:33: policies[0].when.for: must be a time: a whole number and ms, s, m, h or d, for example 30s'],
  ],
  [
    'an unknown unit',
    policy('when: {availableMemory: {below: 3GB}}'),
    [/^p\.yaml:4:37: policies\[0\]\.when\.availableMemory\.below: must be an amount: /],
  ],
  [
    'an unknown time zone and day',
    policy('when: {time: {days: [mo], from: "1:00", to: 25:00, zone: Europe/Bielefeld}}'),
    [
      /days\[0\]: must be one of mon/,
      /time\.from: must be a time of day/,
      /time\.to: must be/,
      /zone: must be a time zone/,
    ],
  ],
  [
    'a Prometheus with a password',
    policy('when: {promql: {url: "http://u:p@x:9090", query: up, above: 1}}'),
    [/^p\.yaml:4:26: policies\[0\]\.when\.promql\.url: must be an http/],
  ],
  [
    'nodes that there are not',
    policy('when: {host: {name: host9, is: reachable}}', "where: {among: [host8, 'rack*', host1]}"),
    [
      'p.yaml:4:25: policies[0].when.host.name: "host9" is not one of the nodes: home, host1, host2',
      'p.yaml:5:21: policies[0].where.among[0]: "host8" is not one of the nodes: home, host1, host2',
      'p.yaml:5:28: policies[0].where.among[1]: matches no node: home, host1, host2',
    ],
  ],
  [
    'too deep',
    policy(`when: ${'{not: '.repeat(9)}{draining: true}${'}'.repeat(9)}`),
    [/must not be nested deeper than 8$/],
  ],
];
for (const [description, text, expected] of faults) {
  test(`says where it is: ${description}`, () => {
    const found = problems(text);
    assert.is(found.length, expected.length, found.join('\n'));
    expected.forEach((wanted, index) => {
      if (typeof wanted === 'string') assert.is(found[index], wanted);
      else assert.match(found[index] ?? '', wanted);
    });
  });
}

test('any text is refused with positions, or taken: nothing else', () => {
  const words = [
    'policies',
    'name',
    'p',
    ':',
    '-',
    '\n',
    ' ',
    '  ',
    '{',
    '}',
    '[',
    ']',
    'when',
    'not',
    'all',
    '"',
    '&a',
    '*a',
  ];
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...words), { maxLength: 60 }), (parts) => {
      for (const line of problems(parts.join(''))) assert.match(line, /^p\.yaml:\d+:\d+: /);
    }),
    { numRuns: 300 },
  );
});

test('patterns match whole texts', () => {
  for (const [pattern, text, expected] of [
    ['redis-server', 'redis-server', true],
    ['redis', 'redis-server', false],
    ['redis-*', 'redis-', true],
    ['*:6379', 'redis-server 0.0.0.0:6379', true],
    ['*a*b*', 'xxaxxbxx', true],
    ['*a*b*', 'xxbxxaxx', false],
    ['a?c', 'abc', true],
    ['a?c', 'ac', false],
    ['a.c', 'abc', false],
    ['', '', true],
  ] as const) {
    assert.is(matchesGlob(pattern, text), expected, `${pattern} ${text}`);
  }
  assert.not(isSelective('*?*'));
});

test('patterns match what a regular expression of theirs would', () => {
  const letters = fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 10 });
  const pattern = fc.string({ unit: fc.constantFrom('a', 'b', '*', '?'), maxLength: 8 });
  fc.assert(
    fc.property(pattern, letters, (glob, text) => {
      const expression = new RegExp(`^${glob.replaceAll('*', '.*').replaceAll('?', '.')}$`);
      assert.is(matchesGlob(glob, text), expression.test(text));
    }),
  );
});

test('the worst pattern for the longest command line takes no more steps than both lengths allow', () => {
  // a backtracking matcher would need more steps here than there are atoms
  assert.not(matchesGlob(`${'*a'.repeat(127)}b`, 'a'.repeat(4096)));
});

test('amounts are said as people write them', () => {
  assert.equal([bytesText(1.5 * 2 ** 30), bytesText(2 ** 20), bytesText(17)], ['1.5 GiB', '1 MiB', '17 B']);
  assert.equal([durationText(250), durationText(90_000), durationText(86_400_000)], ['250ms', '1m 30s', '1d']);
  assert.equal(amountText({ unit: 'percent', value: 10 }), '10%');
});

test.run();
