// limit: 240 s
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { run } from '../../cli/system/command.js';
import { projectFile } from '../../cli/system/project.js';
import { installProgram } from '../lab/c-program.js';
import { downAll } from '../lab/lab-fixture.js';
import { settledTraces } from '../lab/traces.js';
import { suite } from '../suite.js';
import { AppScene, tell } from './app-scene.js';
import { bytesErrand, uploadErrand } from './http-requests.js';
import { webServerMoves } from './web-moves.js';

const ERRANDS = [bytesErrand(50), bytesErrand(300_000), uploadErrand(100_000), bytesErrand(20_000)];

const test = suite('programs with a runtime of their own, and one that only computes');
let scene: AppScene;

test.before(async () => {
  scene = await AppScene.start('runtimes');
});
test.after(downAll);

test('Node.js: an HTTP server with uploads and replies in chunks', async () => {
  const program = '/run/http-node'; // a name that no other Node.js of the lab has
  await scene.scenario.home.run(['ln', '-s', process.execPath, program]);
  const command = [program, projectFile('dist/test/apps/http-server-main.js'), '8001'];
  await webServerMoves(scene, { command, ports: [8001], errands: ERRANDS });
});

test('Java: an HTTP server with its threads, its compiled code and its garbage collector', async () => {
  await installJavaClass('HttpBytes');
  const command = ['java', '-Xmx64m', '-XX:-UsePerfData', '-cp', '/var/java', 'HttpBytes', '8002'];
  await webServerMoves(scene, { command, ports: [8002], errands: ERRANDS });
});

async function installJavaClass(name: string): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'homeproxy-java-'));
  try {
    const compiler = ['-cp', scene.programs.file('usr/share/java/eclipse-jdt-core.jar'), COMPILER, '-proc:none', '-17'];
    await run(scene.programs.program('java'), [...compiler, '-d', folder, projectFile(`test/apps/${name}.java`)]);
    scene.install(`/var/java/${name}.class`, readFileSync(join(folder, `${name}.class`)));
  } finally {
    rmSync(folder, { recursive: true });
  }
}
const COMPILER = 'org.eclipse.jdt.internal.compiler.batch.Main';

test('a long computation that talks to nobody comes to the same result, bit for bit, as one that never moved', async () => {
  const { home } = scene.scenario;
  const program = await installProgram('computation', ...scene.servers);
  const moved = '/var/moved';
  const pid = await home.detach([program, moved]);
  const moves = await scene.tour(pid, 'computation', { goesOn: async () => await sleep(0) });
  await home.run(['kill', '-TERM', String(pid)]);
  const result = await written(moved);
  const [steps = ''] = result.split(' ');
  await home.run([program, '/var/unmoved', steps], { timeoutMs: 120_000 });
  tell('computation', moves, `${steps} steps`);
  assert.is(await written('/var/unmoved'), result);
});

/** Waits for the line that the computation writes at its end. */
async function written(path: string): Promise<string> {
  for (const deadline = Date.now() + 10_000; Date.now() < deadline; await sleep(20)) {
    try {
      const text = readFileSync(scene.scenario.home.path(path), 'utf8');
      if (text.endsWith('\n')) return text;
    } catch {
      // not yet
    }
  }
  throw new Error(`no result in ${path}`);
}

test('and nothing is left over on any node', async () => {
  const { lab, untouched } = scene.scenario;
  assert.equal(await settledTraces(lab, untouched), untouched);
});

test.run();
