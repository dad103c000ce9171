import { spawn } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join as path } from 'node:path';
import { createServer, connect as tlsConnect } from 'node:tls';
import * as assert from 'uvu/assert';
import { loadConfig } from '../../cli/config/load.js';
import { UserError } from '../../cli/errors.js';
import { type Authority, createAuthority, issueCertificate } from '../../cli/identity/ca.js';
import { loadCredentials } from '../../cli/identity/credentials.js';
import { saveAuthority, saveNodeCredentials } from '../../cli/identity/files.js';
import { readInvitation, writeInvitation } from '../../cli/identity/invitation.js';
import { type Inviting, invite, join, type OpenInvitation } from '../../cli/identity/joining.js';
import { nodeNameOf } from '../../cli/identity/node-name.js';
import { readRegister } from '../../cli/identity/register.js';
import { projectFile } from '../../cli/system/project.js';
import { suite } from '../suite.js';

interface World {
  authority: Authority;
  folder: string;
  noted: string[];
  open: { invitation: OpenInvitation; joined: Promise<string>; close(): void }[];
}

const test = suite<World>('a machine becomes a node');

test.before(async (world) => {
  world.authority = await createAuthority();
});
test.before.each((world) => {
  world.folder = mkdtempSync(path(tmpdir(), 'hp-joining-'));
  world.noted = [];
  world.open = [];
});
test.after.each(async (world) => {
  for (const { close, joined } of world.open) {
    close();
    await joined.catch(() => undefined);
  }
  rmSync(world.folder, { recursive: true, force: true });
});

async function failure(promise: Promise<unknown>): Promise<UserError> {
  try {
    await promise;
  } catch (error) {
    assert.instance(error, UserError, String(error));
    return error as UserError;
  }
  return assert.unreachable('it should have failed') as never;
}

async function inviting(world: World, options: Partial<Inviting> = {}) {
  const controller = new AbortController();
  const invitation = await invite({
    authority: world.authority,
    node: 'host3',
    addresses: ['10.77.0.5'],
    listen: { address: '127.0.0.1', port: 0 },
    settings: 'node: host3\n',
    validMs: 60_000,
    note: async (certificate) => void world.noted.push(certificate),
    ...options,
  });
  const joined = invitation.joined(controller.signal);
  joined.catch(() => undefined);
  const made = { invitation, joined, close: () => controller.abort(new Error('withdrawn')) };
  world.open.push(made);
  return { ...made, asked: readInvitation(invitation.word) };
}

test('the guest gets a certificate of its own key, under the name and addresses of the invitation alone', async (world) => {
  const { asked, joined } = await inviting(world);
  const { ca, pair, settings } = await join(asked);
  assert.equal([ca, settings, await joined], [world.authority.certificate, 'node: host3\n', pair.certificate]);
  assert.equal(world.noted, [pair.certificate]);
  const certificate = new X509Certificate(pair.certificate);
  assert.equal([nodeNameOf(certificate), certificate.checkIP('10.77.0.5')], ['host3', '10.77.0.5']);
  const files = await saveNodeCredentials(world.folder, ca, pair);
  await loadCredentials(files, 'host3');
});

test('one that asks for another name is given the one that was invited', async (world) => {
  const { asked } = await inviting(world);
  const { pair } = await join({ ...asked, node: 'home' });
  assert.is(nodeNameOf(new X509Certificate(pair.certificate)), 'host3');
});

test('a wrong secret is refused, and the right guest still gets in', async (world) => {
  const { asked } = await inviting(world);
  const error = await failure(join({ ...asked, secret: '0'.repeat(64) }));
  assert.equal([error.code, error.exitStatus], ['INVITATION_REFUSED', 4]);
  assert.equal(world.noted, []);
  await join(asked);
  assert.is(world.noted.length, 1);
});

test('an invitation is good for one: of two at the same time, one is refused', async (world) => {
  const { asked } = await inviting(world);
  const results = await Promise.allSettled([join(asked), join(asked)]);
  assert.equal(results.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
  assert.is(world.noted.length, 1);
  assert.is((await failure(join(asked))).code, 'INVITER_UNREACHABLE', 'nobody waits any more');
});

test('whoever stands in the place of the inviter is told nothing', async (world) => {
  const { asked } = await inviting(world);
  const own = await createAuthority();
  let heard = '';
  const impostor = createServer({ cert: own.certificate, key: own.key }, (socket) => {
    socket
      .on('error', () => undefined)
      .on('data', (data) => {
        heard += String(data);
      });
  });
  impostor.listen(0, '127.0.0.1');
  await once(impostor, 'listening');
  const { port } = impostor.address() as { port: number };
  const error = await failure(join({ ...asked, port }));
  impostor.close();
  assert.equal([error.code, error.exitStatus, heard], ['INVITER_NOT_TRUSTED', 4, '']);
});

test('garbage, silence, half lines and requests that are none harm nobody', async (world) => {
  const { asked } = await inviting(world);
  const garbage = connect(asked.port, '127.0.0.1');
  garbage.on('error', () => undefined).end('GET / HTTP/1.0\r\n\r\n');
  const silent = connect(asked.port, '127.0.0.1').on('error', () => undefined);
  const request = (await issueCertificate(world.authority, { name: 'x', addresses: [] })).certificate;
  const { secret } = asked;
  for (const line of ['\n', '{"secret":', '[]\n', '{"secret":5}\n', `${'x'.repeat(300_000)}\n`]) {
    const socket = tlsConnect({ host: '127.0.0.1', port: asked.port, rejectUnauthorized: false });
    socket.on('error', () => undefined).resume();
    socket.end(line);
    await once(socket, 'close');
  }
  await join(asked);
  silent.destroy();
  const next = await inviting(world);
  const socket = tlsConnect({ host: '127.0.0.1', port: next.asked.port, rejectUnauthorized: false });
  socket.write(`${JSON.stringify({ secret: next.asked.secret, request })}\n`);
  const [answer] = (await once(socket, 'data')) as [Buffer];
  assert.match(String(answer), 'refused');
  assert.is((await failure(next.joined)).code, 'REQUEST_INVALID', 'the invitation is used up, and its host learns why');
  assert.not(String(answer).includes(secret));
});

test('an invitation ends after its time, and when it is withdrawn', async (world) => {
  const { joined } = await inviting(world, { validMs: 10 });
  assert.is((await failure(joined)).code, 'INVITATION_EXPIRED');
  const second = await inviting(world);
  second.close();
  assert.match(await second.joined.catch((error: Error) => error.message), 'withdrawn');
  assert.is((await failure(join(second.asked))).code, 'INVITER_UNREACHABLE');
});

test('a word that is not whole is not repeated in the error', () => {
  const word = writeInvitation({
    node: 'host3',
    address: 'fd00::1',
    port: 7079,
    fingerprint: 'a'.repeat(64),
    secret: 'b'.repeat(64),
  });
  assert.match(word, /^[A-Za-z0-9_-]+$/);
  assert.is(readInvitation(word).address, 'fd00::1');
  for (const wrong of ['', 'x', word.slice(0, -9), `${word}AA`, word.slice(1), `hpjoin1-${'A'.repeat(5000)}`]) {
    try {
      readInvitation(wrong);
      assert.unreachable(wrong);
    } catch (error) {
      assert.instance(error, UserError);
      assert.is((error as UserError).code, 'INVITATION_INVALID');
      if (wrong.length > 1) assert.not((error as UserError).message.includes(wrong));
    }
  }
});

test('the two commands: key and configuration at the guest, a line in the register at the authority', async (world) => {
  const { folder, authority } = world;
  const directory = path(folder, 'ca');
  await saveAuthority(directory, authority);
  const word = path(folder, 'word');
  const program = projectFile('cli/bin/run.js');
  const start = (args: string[], input: 'pipe' | 'ignore' = 'ignore') => {
    const child = spawn(process.execPath, [program, ...args], { stdio: [input, 'pipe', 'pipe'] });
    const said: Buffer[] = [];
    child.stdout?.on('data', (chunk: Buffer) => said.push(chunk));
    child.stderr?.on('data', (chunk: Buffer) => said.push(chunk));
    const ended = once(child, 'close').then(([status]) => ({ status, text: Buffer.concat(said).toString() }));
    return { child, ended };
  };
  const at = ['--listen', '127.0.0.1', '--port', '27079', '--directory', directory];
  const host = start(['ca', 'invite', 'host3', '--address', '10.77.0.5', ...at, '--word-file', word]);
  await once(host.child.stdout ?? host.child, 'data'); // it has said what to do: the word is written
  assert.is(statSync(word).mode & 0o777, 0o600);
  const out = path(folder, 'etc');
  const guest = start(['node', 'join', '--out', out], 'pipe');
  guest.child.stdin?.end(readFileSync(word));
  const [invited, joined] = await Promise.all([host.ended, guest.ended]);
  assert.equal([invited.status, joined.status], [0, 0], `${invited.text}${joined.text}`);
  assert.equal(readdirSync(out).sort(), ['ca.pem', 'homeproxy.yaml', 'node.key', 'node.pem']);
  assert.is(statSync(path(out, 'node.key')).mode & 0o777, 0o600);
  assert.is((await loadConfig(path(out, 'homeproxy.yaml'))).node, 'host3');
  assert.equal(
    (await readRegister(directory)).map(({ node }) => node),
    ['host3'],
  );
  const again = await start(['node', 'join', '--out', out, readFileSync(word, 'utf8').trim()]).ended;
  assert.is(again.status, 2, again.text);
  assert.match(again.text, 'FILE_EXISTS');
  assert.ok(existsSync(path(out, 'node.key')));
});

test.run();
