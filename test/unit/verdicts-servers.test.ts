// limit: 60 s
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { readsEveryLimit } from '../../cli/process/task-verdicts.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import { endSubjects, enterPrivateWorld } from './private-world.js';
import { examine, objections, startInState, words } from './verdicts-subject.js';

const test = suite('verdicts on servers under load');
const entered = enterPrivateWorld({ processes: false });
const folder = mkdtempSync('/tmp/homeproxy-servers-');
const LOOKS = 30;

test.after(() => {
  endSubjects();
  rmSync(folder, { recursive: true });
});

test('one that opens and closes files all the time under one number: name and file are always of one moment', async () => {
  const subject = await startInState(`
short, long = '${folder}/short', '${folder}/long'
open(short, 'w').write('a'); open(long, 'w').write('a' * 5000)
with open('/proc/self/comm', 'w') as comm: comm.write('ready')
while True:
    for path in (short, long): os.close(os.open(path, os.O_RDONLY))`);
  const seen = new Set<string>();
  for (let look = 0; look < LOOKS || seen.size < 2; look++) {
    const { verdicts, needs } = await examine(subject.pid);
    assert.equal(words(verdicts), [], JSON.stringify(objections(verdicts)));
    for (const { path, bytes } of needs.files.filter(({ path }) => path.startsWith(`${folder}/`))) {
      assert.is(bytes, statSync(path).size, path);
      seen.add(path);
    }
  }
});

test('one that has left root: refused only where CRIU may not read its limits', async () => {
  const subject = await startInState("os.setgid(65534); os.setuid(65534); libc.prctl(15, b'ready'); time.sleep(3600)");
  const { verdicts } = await examine(subject.pid);
  assert.equal(words(verdicts), readsEveryLimit() ? [] : ['refused LIMITS_UNREADABLE']);
});

if (!entered) skip(test, 'verdicts on servers', 'needs root');
test.run();
