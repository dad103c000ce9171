import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { configJsonSchema } from '../../cli/config/json-schema.js';
import { loadConfig, ownNode } from '../../cli/config/load.js';
import { parseConfig } from '../../cli/config/parse.js';
import { UserError } from '../../cli/errors.js';
import { suite } from '../suite.js';

const root = new URL('../../../', import.meta.url);
const EXAMPLE = fileURLToPath(new URL('config/homeproxy.example.yaml', root));
const MINIMAL = 'node: home\nnodes:\n  - {name: home, address: 10.77.0.2}\n';

const test = suite<{ folder: string }>('configuration');

test.before.each((world) => {
  world.folder = mkdtempSync(join(tmpdir(), 'hp-config-'));
});
test.after.each((world) => rmSync(world.folder, { recursive: true, force: true }));

function problems(text: string): string[] {
  try {
    parseConfig(text, 'f.yaml');
  } catch (error) {
    assert.instance(error, UserError, String((error as Error).stack));
    assert.equal([(error as UserError).code, (error as UserError).exitStatus], ['CONFIG_INVALID', 2]);
    return (error as UserError).message.split('\n');
  }
  return [];
}

async function codeOf(path: string): Promise<string> {
  try {
    await loadConfig(path);
  } catch (error) {
    assert.instance(error, UserError);
    assert.is((error as UserError).exitStatus, 2);
    return (error as UserError).code;
  }
  return 'loaded';
}

test('two settings are enough; everything else has its default', () => {
  assert.equal(parseConfig(MINIMAL, 'f'), {
    node: 'home',
    nodes: [{ name: 'home', address: '10.77.0.2', port: 7077, reverseTunnel: false, encapsulation: 'ip' }],
    uplinks: [],
    tcx: true,
    tls: {
      ca: '/etc/homeproxy/ca.pem',
      certificate: '/etc/homeproxy/node.pem',
      key: '/etc/homeproxy/node.key',
      revocations: '/etc/homeproxy/ca.crl',
    },
    paths: { run: '/run/homeproxy', state: '/var/lib/homeproxy', bpf: '/sys/fs/bpf/homeproxy' },
    criu: { path: 'auto' },
    park: { packets: 10_000 },
    portBlock: { ports: 256 },
    control: {},
    carry: {
      paths: [
        '/etc/group',
        '/etc/hosts',
        '/etc/localtime',
        '/etc/nsswitch.conf',
        '/etc/passwd',
        '/etc/protocols',
        '/etc/resolv.conf',
        '/etc/services',
      ],
      maxBytes: 2_147_483_648,
    },
    metrics: { enabled: true, listen: '127.0.0.1', port: 7078, maxProcesses: 100 },
    guests: { accept: [{}] },
    transfer: {},
    timeouts: {
      connectMs: 3000,
      prepareMs: 10_000,
      drainMs: 1000,
      freezeMs: 10_000,
      transferMs: 60_000,
      restoreMs: 30_000,
      commitMs: 10_000,
      maxFreezeMs: 30_000,
      freezeBudgetMs: 100,
    },
  });
});

test('the example loads, and shows every setting with its default', async () => {
  const example = await loadConfig(EXAMPLE);
  const defaults = parseConfig(MINIMAL, 'f');
  for (const block of ['tls', 'paths', 'criu', 'park', 'metrics', 'timeouts'] as const) {
    assert.equal(example[block], defaults[block], block);
    const text = readFileSync(EXAMPLE, 'utf8');
    for (const key of Object.keys(defaults[block])) assert.match(text, new RegExp(`^ {2}${key}: `, 'm'));
  }
  assert.equal(ownNode(example).address, '10.77.0.2');
});

test('the JSON schema in config/ is the one that the code describes', () => {
  assert.is(readFileSync(new URL('config/homeproxy.schema.json', root), 'utf8'), configJsonSchema());
});

test('every setting has a description, and every default is named in it', () => {
  const visit = (schema: Record<string, unknown>, path: string): void => {
    const properties = (schema.properties ?? {}) as Record<string, Record<string, unknown>>;
    for (const [key, value] of Object.entries(properties)) {
      const description = String(value.description ?? '');
      assert.ok(description !== '', `${path}${key} has no description`);
      const fallback = value.default;
      if (typeof fallback === 'string' || typeof fallback === 'number') {
        assert.match(description, new RegExp(`[Dd]efault ${fallback}`), `${path}${key}`);
      }
      visit(value, `${path}${key}.`);
    }
    if (schema.items !== undefined) visit(schema.items as Record<string, unknown>, `${path}[].`);
  };
  visit(JSON.parse(configJsonSchema()) as Record<string, unknown>, '');
});

test('addresses are written in one form', () => {
  const config = parseConfig('node: a\nnodes: [{name: a, address: "FD00:0:0::0002"}]\n', 'f');
  assert.is(config.nodes[0]?.address, 'fd00::2');
});

const faults: [description: string, text: string, expected: (string | RegExp)[]][] = [
  ['an empty file', '', ['f.yaml:1:1: node: is missing', 'f.yaml:1:1: nodes: is missing']],
  ['a list instead of settings', '- a\n', ['f.yaml:1:1: must hold settings']],
  [
    'a missing key points at its parent',
    'node: home\nnodes:\n  - name: home\n',
    ['f.yaml:3:5: nodes[0].address: is missing'],
  ],
  ['an unknown key points at itself', `${MINIMAL}parks: {}\n`, ['f.yaml:4:1: parks: is not a known setting']],
  ['an unknown key inside', `${MINIMAL}park:\n  size: 3\n`, ['f.yaml:5:3: park.size: is not a known setting']],
  [
    'an unknown key in a list',
    'node: a\nnodes:\n  - {name: a, address: 10.0.0.1}\n  - {name: b, adress: 10.0.0.2}\n',
    ['f.yaml:4:5: nodes[1].address: is missing', 'f.yaml:4:15: nodes[1].adress: is not a known setting'],
  ],
  [
    'a number out of range',
    `${MINIMAL}park:\n  packets: 0\n`,
    ['f.yaml:5:12: park.packets: must be at least 1 (packets)'],
  ],
  [
    'a duration with a unit',
    `${MINIMAL}timeouts: {connectMs: 3s}\n`,
    ['f.yaml:4:23: timeouts.connectMs: must be a whole number of milliseconds'],
  ],
  [
    'a fraction',
    `${MINIMAL}timeouts: {connectMs: 1.5}\n`,
    ['f.yaml:4:23: timeouts.connectMs: must be a whole number of milliseconds'],
  ],
  [
    'metrics on no address and under no name',
    `${MINIMAL}metrics:\n  listen: localhost\n  port: 0\n  basicAuth: {user: "a:b", passwordFile: pw}\n  tls: {key: /k}\n`,
    [
      'f.yaml:5:11: metrics.listen: must be an IPv4 or IPv6 address of this machine, 0.0.0.0 or ::',
      'f.yaml:6:9: metrics.port: must be between 1 and 65535',
      'f.yaml:7:21: metrics.basicAuth.user: must be 1 to 128 characters without colon and control characters',
      'f.yaml:7:42: metrics.basicAuth.passwordFile: must be an absolute path',
      'f.yaml:8:8: metrics.tls.certificate: is missing',
    ],
  ],
  [
    'an empty value',
    `${MINIMAL}park:\n  packets:\n`,
    [/^f\.yaml:5:\d+: park\.packets: must be a whole number of packets$/],
  ],
  ['an empty block', `${MINIMAL}park:\n`, [/^f\.yaml:4:\d+: park: must be settings \(key: value\)$/]],
  [
    'a port out of range',
    'node: a\nnodes:\n  - name: a\n    address: 10.0.0.1\n    port: 70000\n',
    ['f.yaml:5:11: nodes[0].port: must be between 1 and 65535'],
  ],
  [
    'a reverse tunnel that is neither there nor not',
    'node: a\nnodes:\n  - name: a\n    address: 10.0.0.1\n    reverseTunnel: 1\n',
    ['f.yaml:5:20: nodes[0].reverseTunnel: must be true or false'],
  ],
  [
    'a name instead of an address',
    'node: a\nnodes: [{name: a, address: host.example}]\n',
    [/^f\.yaml:2:28: nodes\[0\]\.address: must be an IPv4 or IPv6 address/],
  ],
  [
    'half an address',
    'node: a\nnodes: [{name: a, address: "10.1"}]\n',
    [/^f\.yaml:2:28: nodes\[0\]\.address: must be/],
  ],
  [
    'an address with octal parts',
    'node: a\nnodes: [{name: a, address: 010.0.0.1}]\n',
    [/^f\.yaml:2:28: nodes\[0\]\.address: must be/],
  ],
  ['a network', 'node: a\nnodes: [{name: a, address: 10.0.0.1/24}]\n', [/^f\.yaml:2:28: nodes\[0\]\.address: must be/]],
  [
    'the unspecified address',
    'node: a\nnodes: [{name: a, address: "::"}]\n',
    [/^f\.yaml:2:28: nodes\[0\]\.address: must be/],
  ],
  [
    'a name with capitals',
    'node: Home\nnodes: [{name: Home, address: 10.0.0.1}]\n',
    [/^f\.yaml:1:7: node: must be a name/, /^f\.yaml:2:16: nodes\[0\]\.name: must be a name/],
  ],
  [
    'a node that is not listed',
    'node: b\nnodes: [{name: a, address: 10.0.0.1}]\n',
    ['f.yaml:1:7: node: "b" is not one of the nodes'],
  ],
  [
    'a node that may empty this one and is not listed',
    'node: a\nnodes: [{name: a, address: 10.0.0.1}]\ncontrol: {drainFrom: [a, b]}\n',
    ['f.yaml:3:26: control.drainFrom[1]: "b" is not one of the nodes'],
  ],
  [
    'a name twice',
    'node: a\nnodes:\n  - {name: a, address: 10.0.0.1}\n  - {name: a, address: 10.0.0.2}\n',
    ['f.yaml:4:12: nodes[1].name: is used twice: "a"'],
  ],
  [
    'an address twice, in two forms',
    'node: a\nnodes:\n  - {name: a, address: "fd00::1"}\n  - {name: b, address: "FD00:0::1"}\n',
    ['f.yaml:4:24: nodes[1].address: is used twice: [fd00::1]:7077'],
  ],
  [
    'nodes of both families, one of them with an address of its own only',
    'node: a\nnodes:\n  - {name: a, address: 10.0.0.1, otherAddress: "fd00::1"}\n  - {name: b, address: "fd00::2"}\n',
    ['f.yaml:4:24: nodes[1].address: needs an otherAddress of IPv4 beside it: "a" is reached by IPv4'],
  ],
  [
    'an other address of the same family',
    'node: a\nnodes: [{name: a, address: 10.0.0.1, otherAddress: 10.0.0.2}]\n',
    [/^f\.yaml:2:52: nodes\[0\]\.otherAddress: must be an IPv6 address/],
  ],
  [
    'no nodes',
    'node: a\nnodes: []\n',
    ['f.yaml:1:7: node: "a" is not one of the nodes', 'f.yaml:2:8: nodes: must name at least this machine'],
  ],
  [
    'an interface twice',
    `${MINIMAL}uplinks:\n  - interface: eth0\n  - interface: eth0\n`,
    ['f.yaml:6:16: uplinks[1].interface: is used twice: "eth0"'],
  ],
  [
    'an interface name that is too long',
    `${MINIMAL}uplinks: [{interface: abcdefghijklmnop}]\n`,
    [/^f\.yaml:4:23: uplinks\[0\]\.interface: must be the name/],
  ],
  [
    'an unknown way to attach',
    `${MINIMAL}uplinks: [{interface: eth0, attach: XDP}]\n`,
    ['f.yaml:4:37: uplinks[0].attach: must be auto, xdp, xdp-generic or tc'],
  ],
  ['a relative path', `${MINIMAL}paths: {run: run}\n`, ['f.yaml:4:14: paths.run: must be an absolute path']],
  [
    'a wrong path of CRIU',
    `${MINIMAL}criu: {path: criu}\n`,
    ['f.yaml:4:14: criu.path: must be auto or an absolute path'],
  ],
  ['a repeated key', 'node: a\nnode: b\n', [/^f\.yaml:2:1: .*unique/]],
  ['a tab as indentation', 'node: a\nnodes:\n\t- b\n', [/^f\.yaml:3:1: .*[Tt]ab/]],
  ['an open bracket', 'node: a\nnodes: [{name: a\n', [/^f\.yaml:\d+:\d+: /]],
  ['a second document', `${MINIMAL}---\nnode: b\n`, [/^f\.yaml:4:1: .*document/i]],
  ['an alias without its anchor', 'node: *a\n', [/^f\.yaml:1:\d+: .*[Aa]lias|anchor/]],
];

for (const [description, text, expected] of faults) {
  test(`problem with its place: ${description}`, () => {
    const found = problems(text);
    assert.ok(found.length >= expected.length, `found only ${JSON.stringify(found)}`);
    for (const [index, line] of expected.entries()) {
      if (typeof line === 'string') assert.is(found[index], line);
      else assert.match(String(found[index]), line);
    }
    if (expected.every((line) => typeof line === 'string')) assert.is(found.length, expected.length, found.join('\n'));
  });
}

test('several problems come in the order of the file', () => {
  const found = problems(`${MINIMAL}parks: 1\npark: {packets: x}\ncriu: 5\n`);
  assert.equal(
    found.map((line) => line.split(' ')[0]),
    ['f.yaml:4:1:', 'f.yaml:5:17:', 'f.yaml:6:7:'],
  );
});

test('anchors may be used, an alias bomb is refused at once', () => {
  const anchored =
    'node: a\nnodes:\n  - &n {name: a, address: 10.0.0.1}\ntimeouts: {connectMs: &t 5000, drainMs: *t}\n';
  assert.is(parseConfig(anchored, 'f').timeouts.drainMs, 5000);
  const bomb = ['a: &a0 [x,x,x,x,x,x,x,x,x,x]'];
  for (let level = 1; level < 10; level++) {
    bomb.push(
      `b${level}: &a${level} [${Array(10)
        .fill(`*a${level - 1}`)
        .join(',')}]`,
    );
  }
  const began = Date.now();
  const found = problems(`${bomb.join('\n')}\n`);
  assert.is(found.length, 1);
  assert.match(String(found[0]), /^f\.yaml:1:1: .*alias/);
  assert.ok(Date.now() - began < 1000);
});

test('wherever a wrong value stands, its place is the place of the value', () => {
  const blanks = fc.array(fc.constantFrom('', '# comment', '   '), { maxLength: 5 });
  const indent = fc.integer({ min: 1, max: 9 });
  fc.assert(
    fc.property(blanks, blanks, indent, fc.boolean(), (above, between, spaces, flow) => {
      const head = [...MINIMAL.trimEnd().split('\n'), ...above];
      const body = flow
        ? [`park: {${' '.repeat(spaces)}packets: wrong }`]
        : ['park:', ...between, `${' '.repeat(spaces)}packets: wrong`];
      const lines = [...head, ...body];
      const column = String(lines.at(-1)).indexOf('wrong') + 1;
      assert.equal(problems(`${lines.join('\n')}\n`), [
        `f.yaml:${lines.length}:${column}: park.packets: must be a whole number of packets`,
      ]);
    }),
    { numRuns: 200 },
  );
});

test('a file that is absent, a folder, too large, no text or a device is refused', async ({ folder }) => {
  assert.is(await codeOf(join(folder, 'absent.yaml')), 'CONFIG_MISSING');
  assert.is(await codeOf(folder), 'CONFIG_UNREADABLE');
  const file = join(folder, 'f.yaml');
  writeFileSync(file, `${MINIMAL}#${'x'.repeat(1 << 20)}`);
  assert.is(await codeOf(file), 'CONFIG_UNREADABLE');
  writeFileSync(file, Buffer.from([0x6e, 0xff, 0xfe]));
  assert.is(await codeOf(file), 'CONFIG_UNREADABLE');
  assert.is(await codeOf('/dev/zero'), 'CONFIG_UNREADABLE');
  writeFileSync(file, MINIMAL);
  assert.is(await codeOf(file), 'loaded');
  if (process.getuid?.() !== 0) {
    chmodSync(file, 0);
    assert.is(await codeOf(file), 'CONFIG_UNREADABLE');
  }
});

test.run();
