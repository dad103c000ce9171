// limit: 120 s
import { spawnSync } from 'node:child_process';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { projectFile } from '../../cli/system/project.js';
import { bareLab, downAll } from '../lab/lab-fixture.js';

const test = suite('under a service manager');
test.after(downAll);

test('systemd finds nothing to complain about in the unit', () => {
  const unit = projectFile('config/systemd/homeproxy.service');
  const { status, stdout, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', unit], { encoding: 'utf8' });
  assert.equal([status, stdout, stderr], [0, '', '']);
});

/** What systemd does with NOTIFY_SOCKET (sd_notify(3)): prints each datagram, and closes the barrier that came with it. */
const RECEIVER = `
import array, os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind('/tmp/notify')
print('listening', flush=True)
while True:
    data, ancillary, _, _ = s.recvmsg(4096, 1024)
    for level, kind, body in ancillary:
        if kind == socket.SCM_RIGHTS:
            for fd in array.array('i', body[:len(body) // 4 * 4]): os.close(fd)
    print(data.decode().replace(chr(10), ' '), flush=True)
    if data.startswith(b'READY=1'): break
`;

test('the daemon says that it is ready when it is, as a service of Type=notify', async () => {
  const lab = await bareLab('notify', { hosts: 1 });
  const home = lab.node('home');
  const receiver = home.spawn(['/usr/bin/python3', '-c', RECEIVER], ['ignore', 'pipe', 'inherit']);
  let said = '';
  const heard = new Promise<void>((resolve, reject) => {
    receiver.once('error', reject);
    receiver.once('close', () => resolve());
  });
  const listening = new Promise<void>((resolve) => {
    receiver.stdout?.on('data', (chunk: Buffer) => {
      said += chunk.toString();
      if (said.startsWith('listening\n')) resolve();
    });
  });
  await listening;
  const run = projectFile('cli/bin/run.js');
  const daemon = home.spawn([process.execPath, run, 'up'], ['ignore', 'ignore', 'pipe'], {
    NOTIFY_SOCKET: '/tmp/notify',
  });
  let log = '';
  daemon.stderr?.on('data', (chunk: Buffer) => {
    log += chunk.toString();
  });
  const ended = new Promise<void>((resolve) => daemon.once('close', () => resolve()));
  await Promise.race([heard, ended.then(() => Promise.reject(new Error(`the daemon has ended: ${log}`)))]);
  assert.match(said, /READY=1/);
  assert.match(log, /"msg":"up"/);
  await home.run([process.execPath, run, 'down']);
  await ended;
});

test.run();
