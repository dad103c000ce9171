/** Listeners that a process has together with others at its home, while it is away: what a host says of them, and what counts. */

import * as assert from 'uvu/assert';
import { sharedAsAtHome } from '../../cli/migration/shared-ports.js';
import type { Listener, ProcessDescription } from '../../cli/process/description.js';
import { suite } from '../suite.js';

const HOME = '198.51.100.2';
const COOKIE = '000000000000002a';
const OTHER = '0000000000000001';

const test = suite('listeners that stay at home');

function described(listening: Listener[], exclusive: boolean): ProcessDescription {
  return {
    homePid: 100,
    comm: 'worker',
    commandLine: 'worker',
    pids: [100],
    numbers: [],
    executables: ['/usr/bin/worker'],
    users: [0],
    residentBytes: 1,
    homeAddresses: [HOME],
    ports: [{ protocol: 'tcp', address: HOME, port: 80, exclusive }],
    flows: [],
    connections: 0,
    correspondents: [],
    listeners: listening.length,
    listening,
  };
}

const listener = (port: number, cookie?: string, address = '0.0.0.0'): Listener => ({
  transport: 'tcp',
  address,
  port,
  ...(cookie === undefined ? {} : { cookie }),
});

function seenAs(...listening: Listener[]): Listener[] {
  const atHome = described([listener(80, COOKIE), listener(81)], false);
  return sharedAsAtHome(atHome, described(listening, true)).listening;
}

test('the one in the pod is known again by its address, and has the name that its home gave it', () => {
  assert.equal(seenAs(listener(80), listener(81)), [listener(80, COOKIE), listener(81)]);
});

test('a name that a host gives is not believed: who has it would be given that socket of the home', () => {
  assert.equal(seenAs(listener(80, OTHER), listener(22, OTHER), listener(81, OTHER)), [
    listener(80, COOKIE),
    listener(22),
    listener(81),
  ]);
});

test('one that it has closed while it was away is not given back, nor one at another address taken for it', () => {
  assert.equal(seenAs(), []);
  assert.equal(seenAs(listener(80, undefined, HOME)), [listener(80, undefined, HOME)]);
  assert.equal(seenAs({ ...listener(80), transport: 'tcp6', address: '0:0:0:0:0:0:0:0' })[0]?.cookie, undefined);
});

test.run();
