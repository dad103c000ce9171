// limit: 60 s

import * as assert from 'uvu/assert';
import { readChildren } from '../../cli/system/procfs.js';
import { suite } from '../suite.js';
import { endSubjects, enterPrivateWorld, until } from './private-world.js';
import { examine, objections, startInState } from './verdicts-subject.js';

const test = suite('children that come while we look');
enterPrivateWorld({ processes: false });
test.after(endSubjects);

const LOOKS = 100;
/** A server with memory, a memfd and a listener that each child has too; there is always one that is new. */
const FORKING = `
import mmap, socket, threading
memory = mmap.mmap(-1, 8192)
file = os.memfd_create('a board')
os.ftruncate(file, 4096)
board = mmap.mmap(file, 4096)
listener = socket.create_server(('', 7311))
def family():
    while True:
        child = os.fork()
        if child == 0:
            time.sleep(0.005)
            os._exit(0)
        os.waitpid(child, 0)
threading.Thread(target=family).start()
`;

test('are no strangers: what they have of their parent stands against nothing', async () => {
  const subject = await startInState(FORKING);
  try {
    await until('it has children', () => readChildren(subject.pid).length > 0);
    let found: string[] = [];
    for (let look = 0; look < LOOKS && found.length === 0; look++) {
      const { verdicts } = await examine(subject.pid);
      const refused = objections(verdicts).filter(({ outcome }) => outcome === 'refused');
      found = refused.map(({ code, reason }) => `${code}: ${reason}`);
    }
    assert.equal(found, []);
  } finally {
    subject.kill();
  }
});

test.run();
