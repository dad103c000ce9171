import { X509Certificate } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { UserError } from '../../cli/errors.js';
import { type Authority, createAuthority, issueCertificate, type KeyPair } from '../../cli/identity/ca.js';
import { loadCredentials } from '../../cli/identity/credentials.js';
import { describeCertificate } from '../../cli/identity/description.js';
import { loadAuthority, saveAuthority, saveNodeCredentials } from '../../cli/identity/files.js';
import { nodeNameOf } from '../../cli/identity/node-name.js';
import { suite } from '../suite.js';

interface World {
  authority: Authority;
  home: KeyPair;
  folder: string;
}

const test = suite<World>('identity');
const HOME = { name: 'home', addresses: ['10.77.0.2', 'fd00::2'] };
const DAY_MS = 86_400_000;

test.before(async (world) => {
  world.authority = await createAuthority();
  world.home = await issueCertificate(world.authority, HOME);
});
test.before.each((world) => {
  world.folder = mkdtempSync(join(tmpdir(), 'hp-identity-'));
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

test('an authority signs nodes and nothing below them, for ten years', ({ authority }) => {
  const certificate = new X509Certificate(authority.certificate);
  assert.ok(certificate.ca && certificate.verify(certificate.publicKey));
  assert.is(certificate.publicKey.asymmetricKeyDetails?.namedCurve, 'prime256v1');
  assert.match(certificate.toString(), 'BEGIN CERTIFICATE');
  const days = (Date.parse(certificate.validTo) - Date.now()) / DAY_MS;
  assert.ok(days > 3649 && days <= 3650);
  assert.is(nodeNameOf(certificate), undefined);
});

test("a node's certificate has its name, its addresses, both purposes, one year and no right to sign", (world) => {
  const certificate = new X509Certificate(world.home.certificate);
  const authority = new X509Certificate(world.authority.certificate);
  assert.ok(certificate.checkIssued(authority) && certificate.verify(authority.publicKey));
  assert.is(certificate.ca, false);
  assert.is(nodeNameOf(certificate), 'home');
  assert.is(certificate.checkIP('10.77.0.2'), '10.77.0.2');
  assert.is(certificate.checkIP('fd00::2'), 'fd00::2');
  assert.is(certificate.checkHost('host1'), undefined);
  assert.equal([...(certificate.keyUsage ?? [])].sort(), ['1.3.6.1.5.5.7.3.1', '1.3.6.1.5.5.7.3.2']);
  assert.ok(Date.parse(certificate.validFrom) < Date.now() - 1_800_000, 'a clock that is late accepts it');
  const description = describeCertificate(certificate);
  assert.equal([description.kind, description.daysLeft], ['node', 364]);
  assert.equal(description.names, ['home', '10.77.0.2', 'fd00::2']);
});

test('serial numbers are random, positive and of full length', async ({ authority }) => {
  const serials = new Set<string>();
  for (let index = 0; index < 20; index++) {
    const { certificate } = await issueCertificate(authority, HOME);
    const { serialNumber } = new X509Certificate(certificate);
    assert.is(serialNumber.length, 32);
    assert.ok(Number.parseInt(serialNumber.slice(0, 2), 16) < 128);
    serials.add(serialNumber);
  }
  assert.is(serials.size, 20);
});

test('a CN that is not also a DNS name of the certificate is nobody', async ({ authority }) => {
  const { certificate } = await issueCertificate(authority, { name: '*.example', addresses: [] });
  assert.is(nodeNameOf(new X509Certificate(certificate)), '*.example', 'equal to itself only, never a pattern');
  const forged = await issueCertificate(authority, { name: 'a, DNS:home', addresses: [] });
  assert.is.not(nodeNameOf(new X509Certificate(forged.certificate)), 'home');
});

test('what is no address, and what is no authority, cannot be used', async ({ authority, home }) => {
  for (const address of ['host1', '10.1', '10.0.0.1/24', 'fe80::1%eth0', '']) {
    const error = await failure(issueCertificate(authority, { name: 'home', addresses: [address] }));
    assert.is(error.code, 'ADDRESS_INVALID', address);
  }
  assert.is((await failure(issueCertificate(home, HOME))).code, 'AUTHORITY_INVALID');
  assert.is((await failure(issueCertificate({ ...authority, key: 'x' }, HOME))).code, 'AUTHORITY_INVALID');
  assert.is((await failure(issueCertificate({ ...authority, certificate: 'x' }, HOME))).code, 'AUTHORITY_INVALID');
});

test('keys are written for root only, certificates for all, whatever the umask', async ({
  authority,
  home,
  folder,
}) => {
  for (const umask of [0, 0o077]) {
    const before = process.umask(umask);
    try {
      const target = join(folder, String(umask));
      await saveAuthority(join(target, 'ca'), authority);
      await saveNodeCredentials(join(target, 'home'), authority.certificate, home);
      const modes = ['ca/ca.key', 'ca/ca.pem', 'home/ca.pem', 'home/node.key', 'home/node.pem'].map((name) =>
        (statSync(join(target, name)).mode & 0o777).toString(8),
      );
      assert.equal(modes, ['600', '644', '644', '600', '644']);
      assert.equal(readdirSync(join(target, 'home')).sort(), ['ca.pem', 'node.key', 'node.pem'], 'nothing temporary');
    } finally {
      process.umask(before);
    }
  }
});

test('what is there is replaced only by force', async ({ authority, home, folder }) => {
  const paths = await saveAuthority(folder, authority);
  const other = await createAuthority();
  const error = await failure(saveAuthority(folder, other));
  assert.equal([error.code, error.exitStatus], ['FILE_EXISTS', 2]);
  assert.match(error.remedy ?? '', '--force');
  assert.equal(await loadAuthority(folder), authority);
  rmSync(paths.key);
  assert.is((await failure(saveAuthority(folder, other))).code, 'FILE_EXISTS', 'a key that is kept elsewhere');
  assert.not(existsSync(paths.key), 'nothing is half written');
  await saveAuthority(folder, other, { force: true });
  assert.equal(await loadAuthority(folder), other);
  await saveNodeCredentials(folder, other.certificate, home);
  const again = await failure(saveNodeCredentials(folder, other.certificate, await issueCertificate(other, HOME)));
  assert.is(again.code, 'FILE_EXISTS');
  assert.is(readFileSync(join(folder, 'node.key'), 'utf8'), home.key);
});

test('without an authority, the remedy is the command that makes one', async ({ folder }) => {
  const error = await failure(loadAuthority(folder));
  assert.is(error.code, 'AUTHORITY_MISSING');
  assert.is(error.remedy, `homeproxy ca init --directory ${folder}`);
});

test('credentials that fit are loaded, with the time when they expire', async ({ authority, home, folder }) => {
  const files = await saveNodeCredentials(folder, authority.certificate, home);
  const loaded = await loadCredentials(files, 'home');
  assert.equal([loaded.ca, loaded.cert, loaded.key], [authority.certificate, home.certificate, home.key]);
  assert.ok(Math.abs(loaded.expires.getTime() - Date.now() - 365 * DAY_MS) < 60_000);
});

test('several authorities in one file: any of them may have signed', async ({ authority, home, folder }) => {
  const other = await createAuthority({ name: 'old' });
  const files = await saveNodeCredentials(folder, other.certificate + authority.certificate, home);
  await loadCredentials(files, 'home');
});

type Fault = (world: World, files: { ca: string; certificate: string; key: string }) => Promise<unknown> | unknown;
const past = { notBefore: new Date(Date.now() - 2 * DAY_MS), notAfter: new Date(Date.now() - DAY_MS) };
const future = { notBefore: new Date(Date.now() + DAY_MS), notAfter: new Date(Date.now() + 2 * DAY_MS) };
const write = (files: { certificate: string; key: string }, pair: KeyPair): void => {
  writeFileSync(files.certificate, pair.certificate);
  writeFileSync(files.key, pair.key);
};
const credentialFaults: [code: string, remedy: RegExp, fault: Fault][] = [
  ['TLS_FILE_MISSING', /homeproxy ca issue/, (_world, files) => rmSync(files.key)],
  ['TLS_FILE_MISSING', /homeproxy ca issue/, (_world, files) => rmSync(files.ca)],
  ['TLS_KEY_EXPOSED', /^chmod 600 .*node\.key$/, (_world, files) => chmodSync(files.key, 0o640)],
  ['TLS_KEY_EXPOSED', /^chmod 600 /, (_world, files) => chmodSync(files.key, 0o604)],
  ['TLS_FILE_INVALID', /ca issue/, (_world, files) => writeFileSync(files.certificate, 'hello')],
  ['TLS_FILE_INVALID', /ca issue/, (_world, files) => writeFileSync(files.key, 'hello')],
  [
    'TLS_FILE_INVALID',
    /ca issue/,
    (_world, files) => {
      rmSync(files.ca);
      files.ca = '/';
    },
  ],
  [
    'TLS_KEY_MISMATCH',
    /homeproxy ca issue home --address/,
    async ({ authority }, files) => writeFileSync(files.key, (await issueCertificate(authority, HOME)).key),
  ],
  [
    'TLS_EXPIRED',
    /homeproxy ca issue home/,
    async ({ authority }, files) => write(files, await issueCertificate(authority, { ...HOME, ...past })),
  ],
  [
    'TLS_NOT_VALID_YET',
    /clock/,
    async ({ authority }, files) => write(files, await issueCertificate(authority, { ...HOME, ...future })),
  ],
  [
    'TLS_NOT_SIGNED',
    /homeproxy ca issue home/,
    async (_world, files) => writeFileSync(files.ca, (await createAuthority()).certificate),
  ],
  ['TLS_NOT_SIGNED', /homeproxy ca issue home/, (world, files) => writeFileSync(files.ca, world.home.certificate)],
  [
    'TLS_EXPIRED',
    /homeproxy ca init --force/,
    async (_world, files) => {
      const expired = await createAuthority(past);
      write(files, await issueCertificate(expired, HOME));
      writeFileSync(files.ca, expired.certificate);
    },
  ],
  [
    'TLS_WRONG_NODE',
    /homeproxy ca issue home/,
    async ({ authority }, files) => write(files, await issueCertificate(authority, { ...HOME, name: 'host1' })),
  ],
];

for (const [index, [code, remedy, fault]] of credentialFaults.entries()) {
  test(`${code} is found before the daemon starts (case ${index + 1})`, async (world) => {
    const files = await saveNodeCredentials(world.folder, world.authority.certificate, world.home);
    await fault(world, files);
    const error = await failure(loadCredentials(files, 'home'));
    assert.equal([error.code, error.exitStatus], [code, 2], error.message);
    assert.match(error.remedy ?? '', remedy);
    assert.match(error.message, /ca\.pem|node\.pem|node\.key|\//, 'the file is named');
  });
}

test.run();
