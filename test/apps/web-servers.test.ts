// limit: 240 s
import { randomBytes } from 'node:crypto';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { downAll } from '../lab/lab-fixture.js';
import { settledTraces } from '../lab/traces.js';
import { AppScene, tell } from './app-scene.js';
import { fileErrand, HttpLoad } from './http-load.js';
import type { Errand, HttpLoadOptions } from './http-requests.js';

const ROOT = '/var/www';
const FILES: Readonly<Record<string, number>> = {
  '/small.txt': 100,
  '/page.html': 20_000,
  '/image.bin': 200_000,
  '/film.bin': 1_000_000,
};

const test = suite('web servers under load, home -> host1 -> host2 -> home');
let scene: AppScene;
let errands: Errand[];

test.before(async () => {
  scene = await AppScene.start('web');
  errands = Object.entries(FILES).map(([path, bytes]) => {
    const content = randomBytes(bytes);
    scene.install(`${ROOT}${path}`, content);
    return fileErrand(path, content);
  });
});
test.after(downAll);

/** Starts it, moves it around under load, and holds its clients' results against what they must be. */
async function moves(
  program: string,
  port: number,
  args: readonly string[],
  load: Partial<HttpLoadOptions> = {},
): Promise<void> {
  const { client, home } = scene.scenario;
  const pid = await scene.serve(port, program, ...args);
  const options = { connections: 24, inFlight: 1, paceMs: 20, errands, ...load, host: home.address, port };
  const clients = await HttpLoad.start(client, options);
  const summaries = await scene.tour(pid, program, clients);
  const result = await clients.stop();
  tell(program, summaries, `${result.replies} replies checked, longest ${result.longestMs.toFixed(0)} ms`);
  assert.equal(result.faults, []);
  assert.ok(result.replies > 500, `only ${result.replies} replies`);
  await home.run(['kill', String(pid)]);
}

test('nginx: master and workers, static files, pipelined requests on connections that stay', async () => {
  scene.installFolder('/var/lib/nginx');
  scene.install(
    '/etc/nginx/lab.conf',
    `
daemon off;
user root;
worker_processes 2;
pid /run/nginx.pid;
error_log /dev/null;
events { worker_connections 512; }
http {
  access_log off;
  sendfile on;
  keepalive_requests 1000000;
  limit_req_zone $binary_remote_addr zone=clients:1m rate=100000r/s;
  client_body_temp_path /var/lib/nginx/body;
  proxy_temp_path /var/lib/nginx/proxy;
  fastcgi_temp_path /var/lib/nginx/fastcgi;
  uwsgi_temp_path /var/lib/nginx/uwsgi;
  scgi_temp_path /var/lib/nginx/scgi;
  server {
    listen 8001;
    root ${ROOT};
    add_header X-Number $args;
    limit_req zone=clients burst=1000 nodelay;
  }
}
`,
  );
  await moves('nginx', 8001, ['-c', '/etc/nginx/lab.conf', '-e', '/dev/null'], { inFlight: 3 });
});

test('and nothing is left over on any node', async () => {
  const { lab, untouched } = scene.scenario;
  assert.equal(await settledTraces(lab, untouched), untouched);
});

test.run();
