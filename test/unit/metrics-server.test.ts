import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { get, request } from 'node:http';
import { get as getTls } from 'node:https';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { metricsSection } from '../../cli/config/metrics-schema.js';
import { createAuthority, issueCertificate } from '../../cli/identity/ca.js';
import { createMetricsServer, type MetricsServer, type MetricsServerOptions } from '../../cli/metrics/http-server.js';
import { MetricsPage } from '../../cli/metrics/page.js';
import { readSecrets } from '../../cli/metrics/secrets.js';
import { sampleOf } from '../exposition.js';
import { suite } from '../suite.js';

const test = suite('the server of metrics');
const folder = mkdtempSync(join(tmpdir(), 'hp-metrics-'));
const servers: MetricsServer[] = [];
const page = new MetricsPage();
page.group('a').gauge('homeproxy_answer', 'An answer.').set(42);

async function serve(options: Partial<MetricsServerOptions> = {}): Promise<number> {
  const server = await createMetricsServer({ page, address: '127.0.0.1', port: 0, ...options });
  servers.push(server);
  return server.port;
}

test.after.each(async () => {
  for (const server of servers.splice(0)) await server.close();
});
test.after(() => rmSync(folder, { recursive: true, force: true }));

interface Reply {
  readonly status: number;
  readonly headers: NodeJS.Dict<string | string[]>;
  readonly body: string;
}

async function ask(port: number, path: string, options: { method?: string; auth?: string } = {}): Promise<Reply> {
  return await new Promise((resolve, reject) => {
    request({ host: '127.0.0.1', port, path, agent: false, ...options }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () =>
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          body: Buffer.concat(chunks).toString(),
        }),
      );
    })
      .on('error', reject)
      .end();
  });
}

/** Sends bytes and returns all that comes back until the server ends the connection. */
async function send(port: number, bytes: string): Promise<string> {
  return await new Promise((resolve) => {
    let answer = '';
    const socket: Socket = connect(port, '127.0.0.1', () => socket.write(bytes));
    socket.on('data', (chunk) => {
      answer += chunk.toString();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => resolve(answer));
  });
}

test('answers GET and HEAD of /metrics in the text format, and /healthz', async () => {
  const port = await serve();
  const got = await ask(port, '/metrics');
  assert.is(got.status, 200);
  assert.is(got.headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8');
  assert.is(sampleOf(got.body, 'homeproxy_answer'), 42);
  assert.is((await ask(port, '/metrics?x=1')).status, 200);
  const head = await ask(port, '/metrics', { method: 'HEAD' });
  assert.equal([head.status, head.body], [200, '']);
  assert.ok(Number(head.headers['content-length']) > 100);
  const health = await ask(port, '/healthz');
  assert.equal([health.status, health.body], [200, 'ok\n']);
});

test('has nothing else', async () => {
  const port = await serve();
  for (const path of ['/', '/metrics/', '/metrics/../etc/passwd', '//metrics', '/debug', '*']) {
    assert.is((await ask(port, path)).status, 404, path);
  }
  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS', 'TRACE']) {
    const reply = await ask(port, '/metrics', { method });
    assert.equal([reply.status, reply.headers.allow], [405, 'GET, HEAD'], method);
  }
});

test('ends the connection of whoever sends a body, long headers, nothing, or no HTTP', async () => {
  const port = await serve({ receiveTimeoutMs: 200 });
  const head = 'GET /metrics HTTP/1.1\r\nhost: a\r\n';
  assert.match(await send(port, `${head}content-length: 5\r\n\r\nhello`), /^HTTP\/1\.1 400 /);
  assert.match(await send(port, `${head}transfer-encoding: chunked\r\n\r\n`), /^HTTP\/1\.1 400 /);
  for (const bytes of [
    `${head}x: ${'y'.repeat(10_000)}\r\n\r\n`,
    head, // never ends
    '',
    '\0\0\0\0\r\n\r\n',
    'GET /metrics HTTP/9.9\r\n\r\n',
    'GET\r\n\r\n',
  ]) {
    assert.not.match(await send(port, bytes), /homeproxy_answer/, JSON.stringify(bytes.slice(0, 30)));
  }
  assert.is((await ask(port, '/metrics')).status, 200, 'and it goes on');
});

test('asks for name and password where it must, except for /healthz', async () => {
  const port = await serve({ basicAuth: { user: 'prometheus', password: 'pass:wörd' } });
  const refused = await ask(port, '/metrics');
  assert.is(refused.status, 401);
  assert.match(String(refused.headers['www-authenticate']), /^Basic realm=/);
  assert.not.match(refused.body, /homeproxy_answer/);
  for (const auth of ['prometheus:', 'prometheus:pass', ':pass:wörd', 'root:pass:wörd']) {
    assert.is((await ask(port, '/metrics', { auth })).status, 401, auth);
  }
  assert.is((await ask(port, '/metrics', { auth: 'prometheus:pass:wörd' })).status, 200);
  assert.is((await ask(port, '/healthz')).status, 200);
});

test('speaks TLS with the certificate that it was given', async () => {
  const authority = await createAuthority();
  const { certificate, key } = await issueCertificate(authority, { name: 'home', addresses: ['127.0.0.1'] });
  const port = await serve({ tls: { certificate, key } });
  const status = await new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port, path: '/metrics', ca: authority.certificate, agent: false };
    getTls(options, (response) => resolve(response.resume().statusCode)).on('error', reject);
  });
  assert.is(status, 200);
  const code = await new Promise((resolve) => {
    get({ host: '127.0.0.1', port, path: '/metrics', agent: false }, () => resolve('answered')).on('error', () =>
      resolve('refused'),
    );
  });
  assert.is(code, 'refused');
});

test('says that its port is taken', async () => {
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  const { port } = other.address() as { port: number };
  try {
    await serve({ port });
    assert.unreachable();
  } catch (error) {
    assert.is((error as NodeJS.ErrnoException).code, 'EADDRINUSE');
  } finally {
    other.close();
  }
});

async function codeOf(passwordFile: string): Promise<string> {
  const settings = metricsSection.parse({ basicAuth: { user: 'a', passwordFile } });
  return await readSecrets(settings).then(
    ({ basicAuth }) => `read ${basicAuth?.password}`,
    (error: { code?: string }) => error.code ?? String(error),
  );
}

test('reads a password that nobody else can read', async () => {
  const path = join(folder, 'password');
  const put = (text: string, mode: number): void => {
    writeFileSync(path, text);
    chmodSync(path, mode);
  };
  put('secret word\nand a comment\n', 0o600);
  assert.is(await codeOf(path), 'read secret word');
  put('secret\n', 0o640);
  assert.is(await codeOf(path), 'PASSWORD_EXPOSED');
  put('\n', 0o600);
  assert.is(await codeOf(path), 'PASSWORD_EMPTY');
  put('x'.repeat(2000), 0o600);
  assert.is(await codeOf(path), 'PASSWORD_UNREADABLE');
  assert.is(await codeOf(join(folder, 'nowhere')), 'PASSWORD_UNREADABLE');
  assert.is(await codeOf(folder), 'PASSWORD_UNREADABLE');
});

test.run();
