// limit: 240 s
import { randomBytes } from 'node:crypto';
import { dirname } from 'node:path';
import * as assert from 'uvu/assert';
import { downAll } from '../lab/lab-fixture.js';
import { startProgram } from '../lab/node-command.js';
import { settledTraces } from '../lab/traces.js';
import { suite } from '../suite.js';
import { AppScene } from './app-scene.js';
import { bytesErrand, type Errand, getErrand, uploadErrand } from './http-requests.js';
import { webServerMoves } from './web-moves.js';

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
    return getErrand(path, content);
  });
});
test.after(downAll);

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
  const command = ['nginx', '-c', '/etc/nginx/lab.conf', '-e', '/dev/null'];
  await webServerMoves(scene, { command, ports: [8001], errands, load: { inFlight: 3 } });
});

test('Apache httpd: event MPM, children with threads, a scoreboard and an accept mutex in shared memory', async () => {
  const modules = dirname(scene.programs.file('usr/lib/apache2/modules/mod_mpm_event.so'));
  const load = ['mpm_event', 'authz_core', 'headers', 'mime', 'status'];
  scene.install('/etc/apache2/mime.types', 'text/html html\n');
  scene.install(
    '/etc/apache2/lab.conf',
    `
ServerName lab
ServerRoot /etc/apache2
PidFile /run/apache.pid
DefaultRuntimeDir /run
Listen 8002
Listen 8003
${load.map((name) => `LoadModule ${name}_module ${modules}/mod_${name}.so`).join('\n')}
TypesConfig /etc/apache2/mime.types
User www-data
Group www-data
ErrorLog /dev/null
StartServers 2
ServerLimit 4
ThreadsPerChild 32
MaxRequestWorkers 128
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 60
DocumentRoot ${ROOT}
<Directory ${ROOT}>
  Require all granted
</Directory>
Header set X-Number "expr=%{QUERY_STRING}"
`,
  );
  const command = ['apache2', '-D', 'FOREGROUND', '-f', '/etc/apache2/lab.conf'];
  await webServerMoves(scene, { command, ports: [8002], env: scene.programs.leavingRoot, errands });
});

test('caddy, a server written in Go: its threads, its poller and its timers', async () => {
  scene.install(
    '/etc/caddy/Caddyfile',
    `
{
  admin off
  auto_https off
}
:8004 {
  root * ${ROOT}
  header X-Number {query}
  file_server
}
`,
  );
  const command = ['caddy', 'run', '--config', '/etc/caddy/Caddyfile', '--adapter', 'caddyfile'];
  await webServerMoves(scene, { command, ports: [8004], errands });
});

test('HAProxy: master and worker between its clients and a backend on another node, HTTP and TCP', async () => {
  const { client } = scene.scenario;
  const backend = startProgram(client, 'test/apps/http-server-main.js', ['9000']);
  scene.install(
    '/etc/haproxy/lab.cfg',
    `
global
  maxconn 1000
defaults
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend web
  mode http
  bind :8005
  default_backend web
backend web
  mode http
  http-reuse never
  server one ${client.address}:9000
listen plain
  mode tcp
  bind :8006
  server one ${client.address}:9000
`,
  );
  const errands = [bytesErrand(50), bytesErrand(200_000), uploadErrand(30_000), bytesErrand(20_000)];
  const command = ['haproxy', '-W', '-db', '-f', '/etc/haproxy/lab.cfg'];
  await webServerMoves(scene, { command, ports: [8005, 8006], errands, load: { connections: 12 } });
  backend.kill('SIGTERM');
  await backend.ended;
});

test('and nothing is left over on any node', async () => {
  const { lab, untouched } = scene.scenario;
  assert.equal(await settledTraces(lab, untouched), untouched);
});

test.run();
