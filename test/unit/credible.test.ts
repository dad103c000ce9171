/** What another node says of a process that is to come here, against what this node knows. */
import { networkInterfaces } from 'node:os';
import * as assert from 'uvu/assert';
import { HomeproxyError } from '../../cli/errors.js';
import { requireCredible } from '../../cli/migration/credible.js';
import type { PrepareDestinationRequest } from '../../cli/migration/messages.js';
import { suite } from '../suite.js';

const HOME = { name: 'home', address: '198.51.100.2' };
const SOURCE = { name: 'host1', address: '198.51.100.3' };
const NODES = [HOME, SOURCE, { name: 'host2', address: '198.51.100.4' }];

type Said = Pick<PrepareDestinationRequest, 'home' | 'source' | 'description'>;
type Description = PrepareDestinationRequest['description'];

function said(description: Partial<Description> = {}, places: Partial<Said> = {}): Said {
  const whole: Description = {
    homePid: 100,
    comm: 'server',
    commandLine: 'server',
    pids: [100],
    numbers: [],
    executables: ['/usr/bin/server'],
    users: [0],
    residentBytes: 1,
    homeAddresses: [HOME.address],
    ports: [{ protocol: 'tcp', address: HOME.address, port: 80, exclusive: true }],
    flows: [],
    connections: 0,
    correspondents: [],
    listeners: 1,
    listening: [],
    ...description,
  };
  return { home: HOME, source: SOURCE, description: whole, ...places };
}

const test = suite('what is said of a guest');

test('is believed when it fits: addresses of its home, also its second one, and loopback ports', () => {
  requireCredible(NODES, said());
  requireCredible(NODES, said({ homeAddresses: [HOME.address, '198.51.100.200'] }));
  const port = { protocol: 'tcp' as const, address: '127.0.0.1', port: 80, exclusive: true };
  requireCredible(NODES, said({ ports: [port] }));
});

const own = Object.values(networkInterfaces()).flatMap((found) => found ?? [])[0]?.address ?? '127.0.0.1';
const port = (address: string) => [{ protocol: 'tcp' as const, address, port: 22, exclusive: true }];
const flow = (address: string) => [
  { protocol: 'tcp' as const, local: { address, port: 22 }, remote: { address: '198.51.100.1', port: 4000 } },
];

for (const [what, lie, code] of [
  ["a third node's address", said({ homeAddresses: [HOME.address, '198.51.100.4'] }), 'NOT_ITS_ADDRESS'],
  ["a third node's address, mapped", said({ homeAddresses: ['::ffff:198.51.100.4'] }), 'NOT_ITS_ADDRESS'],
  ["this machine's own address", said({ homeAddresses: [own] }), 'NOT_ITS_ADDRESS'],
  ['loopback as the address of a home', said({ homeAddresses: ['127.0.0.1'] }), 'NOT_ITS_ADDRESS'],
  ['a port at an address that is not its own', said({ ports: port('198.51.100.99') }), 'NOT_ITS_ADDRESS'],
  ['a connection at an address that is not its own', said({ flows: flow('198.51.100.99') }), 'NOT_ITS_ADDRESS'],
  ['a home that is no node', said({}, { home: { name: 'nowhere', address: '198.51.100.2' } }), 'NODES_DIFFER'],
  ['another address of its home', said({}, { home: { name: 'home', address: '198.51.100.66' } }), 'NODES_DIFFER'],
  ['a source that is no node', said({}, { source: { name: 'nowhere', address: '198.51.100.3' } }), 'NODES_DIFFER'],
] as const) {
  test(`is refused when it claims ${what}`, () => {
    assert.throws(
      () => requireCredible(NODES, lie),
      (error: unknown) => error instanceof HomeproxyError && error.code === code && error.exitStatus === 4,
    );
  });
}

test.run();
