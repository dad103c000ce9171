import { X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createSecureContext } from 'node:tls';
import { pino } from 'pino';
import * as assert from 'uvu/assert';
import { UserError } from '../../cli/errors.js';
import { type Authority, createAuthority, issueCertificate, type KeyPair } from '../../cli/identity/ca.js';
import { certificatesIn, loadCredentials } from '../../cli/identity/credentials.js';
import { revokedBy, saveAuthority, saveNodeCredentials, saveRevocations } from '../../cli/identity/files.js';
import { LiveCredentials } from '../../cli/identity/live-credentials.js';
import { noteIssued, readRegister } from '../../cli/identity/register.js';
import { createRevocations, serialsIn } from '../../cli/identity/revocations.js';
import { serialOf } from '../../cli/identity/serial.js';
import { suite } from '../suite.js';

interface World {
  authority: Authority;
  home: KeyPair;
  folder: string;
}

const test = suite<World>('credentials that change while the daemon runs');
const HOME = { name: 'home', addresses: ['10.77.0.2'] };

test.before(async (world) => {
  world.authority = await createAuthority();
  world.home = await issueCertificate(world.authority, HOME);
});
test.before.each((world) => {
  world.folder = mkdtempSync(join(tmpdir(), 'hp-renewal-'));
});
test.after.each((world) => rmSync(world.folder, { recursive: true, force: true }));

async function failure(promise: Promise<unknown>): Promise<UserError> {
  try {
    await promise;
  } catch (error) {
    assert.instance(error, UserError, String(error));
    return error as UserError;
  }
  return assert.unreachable('it should have failed') as never;
}

function serial({ certificate }: KeyPair): string {
  return serialOf(new X509Certificate(certificate).serialNumber);
}

/** Credentials on disk, taken up by a daemon whose log can be read. */
async function live({ authority, home, folder }: World) {
  const files = {
    ...(await saveNodeCredentials(folder, authority.certificate, home)),
    revocations: join(folder, 'ca.crl'),
  };
  const lines: { msg: string; code?: string }[] = [];
  const logger = pino({ level: 'info' }, { write: (line: string) => lines.push(JSON.parse(line)) });
  const renewed: string[] = [];
  const credentials = await LiveCredentials.load(files, 'home', logger);
  credentials.onRenewal(({ cert }) => renewed.push(cert));
  return { files, credentials, lines, renewed };
}

test('a new certificate is taken up, once', async (world) => {
  const { credentials, renewed } = await live(world);
  assert.is(await credentials.refresh(), false, 'nothing has changed');
  const next = await issueCertificate(world.authority, HOME);
  await saveNodeCredentials(world.folder, world.authority.certificate, next, { force: true });
  assert.is(await credentials.refresh(), true);
  assert.is(await credentials.refresh(), false);
  assert.equal([credentials.current.cert, renewed], [next.certificate, [next.certificate]]);
});

test('a key without its certificate, and a file that is gone, change nothing until they fit again', async (world) => {
  const { files, credentials, lines, renewed } = await live(world);
  const next = await issueCertificate(world.authority, HOME);
  writeFileSync(files.key, next.key, { mode: 0o600 });
  assert.is(await credentials.refresh(), false);
  rmSync(files.ca);
  assert.is(await credentials.refresh(), false);
  assert.equal([credentials.current.cert, renewed], [world.home.certificate, []]);
  assert.equal(
    lines.map(({ code }) => code),
    ['TLS_KEY_MISMATCH', 'TLS_FILE_MISSING'],
  );
  writeFileSync(files.ca, world.authority.certificate);
  writeFileSync(files.certificate, next.certificate);
  assert.is(await credentials.refresh(), true);
  assert.equal(renewed, [next.certificate]);
});

test('a list of revoked certificates is taken up, and its going too', async (world) => {
  const { files, credentials } = await live(world);
  assert.is(credentials.current.revoked.size, 0);
  const other = await issueCertificate(world.authority, { name: 'host1', addresses: [] });
  await saveRevocations(world.folder, await createRevocations(world.authority, [serial(other)]));
  assert.is(await credentials.refresh(), true);
  assert.equal([...credentials.current.revoked], [serial(other)]);
  rmSync(files.revocations);
  assert.is(await credentials.refresh(), true);
  assert.is(credentials.current.revoked.size, 0);
});

test('a node whose own certificate is revoked does not start', async ({ authority, home, folder }) => {
  const files = await saveNodeCredentials(folder, authority.certificate, home);
  const revocations = await saveRevocations(folder, await createRevocations(authority, [serial(home)]));
  const error = await failure(loadCredentials({ ...files, revocations }, 'home'));
  assert.equal([error.code, error.exitStatus], ['TLS_REVOKED', 2]);
  assert.match(error.remedy ?? '', 'homeproxy ca issue home');
});

test("a list that is garbage, or another authority's, is refused, however it names itself", async (world) => {
  const { authority, home, folder } = world;
  const files = {
    ...(await saveNodeCredentials(folder, authority.certificate, home)),
    revocations: join(folder, 'ca.crl'),
  };
  const strange = await createRevocations(await createAuthority(), [serial(home)]); // of the same name
  for (const text of ['', 'garbage', authority.certificate, strange, strange.slice(0, 200)]) {
    writeFileSync(files.revocations, text);
    const error = await failure(loadCredentials(files, 'home'));
    assert.equal([error.code, error.exitStatus], ['REVOCATIONS_INVALID', 2], text);
  }
});

test('lists grow: what was revoked stays so, whatever the form of its serial number', async ({ authority, folder }) => {
  await saveAuthority(folder, authority);
  assert.equal(await revokedBy(folder, authority), []);
  const serials = ['0ab1', '7F00000000000000000000000000000001', 'c'];
  await saveRevocations(folder, await createRevocations(authority, serials));
  assert.equal((await revokedBy(folder, authority)).sort(), ['7F00000000000000000000000000000001', 'AB1', 'C']);
});

test('OpenSSL reads the list', async ({ authority, home }) => {
  const crl = await createRevocations(authority, [serial(home)]);
  createSecureContext({ crl });
  assert.throws(() => createSecureContext({ crl: crl.replace('X509 CRL', 'CRL') }), 'as it would if it did not');
});

test('a thousand revoked certificates are read back', async ({ authority }) => {
  const serials = Array.from({ length: 1000 }, (_, index) => (0x40000000 + index).toString(16).toUpperCase());
  const read = await serialsIn(
    await createRevocations(authority, serials),
    'ca.crl',
    certificatesIn(authority.certificate, 'ca.pem'),
  );
  assert.equal([...read].sort(), serials);
});

test('the register names what was issued, and where a line of it is broken', async ({ home, folder }) => {
  assert.equal(await readRegister(folder), []);
  await noteIssued(folder, 'home', home.certificate);
  await noteIssued(folder, 'home', home.certificate);
  const [first, second, ...rest] = await readRegister(folder);
  assert.equal([first?.serial, second?.node, rest], [serial(home), 'home', []]);
  writeFileSync(join(folder, 'issued.jsonl'), '{"serial":"1"}\n');
  assert.match((await failure(readRegister(folder))).message, 'issued.jsonl:1: ');
});

test.run();
