// limit: 60 s

import * as assert from 'uvu/assert';
import { readChildren } from '../../cli/system/procfs.js';
import { suite } from '../suite.js';
import { endSubjects, enterPrivateWorld, until } from './private-world.js';
import { examine, objections, startInState, words } from './verdicts-subject.js';

const test = suite('verdicts on memory that processes share');
enterPrivateWorld({ processes: false });
test.after(endSubjects);

interface Family {
  readonly what: string;
  /** Makes what parent and child have in common. */
  readonly source: string;
  /** What stands against moving the child alone. */
  readonly refusal?: RegExp;
  readonly more?: readonly string[];
}

const families: Family[] = [
  {
    what: 'anonymous memory',
    source: 'import mmap\nheld = mmap.mmap(-1, 8192)',
    refusal: /shares anonymous memory with/,
  },
  {
    what: 'a memfd',
    source: "import mmap\nfile = os.memfd_create('a board')\nos.ftruncate(file, 4096)\nheld = mmap.mmap(file, 4096)",
    refusal: /shares the memfd a board with/,
    more: ['refused SHARED_DESCRIPTOR'],
  },
  {
    what: 'a memfd that nobody can write',
    source: `import fcntl, mmap
file = os.memfd_create('a book', os.MFD_ALLOW_SEALING)
os.ftruncate(file, 4096)
fcntl.fcntl(file, 1033, 8) # F_ADD_SEALS, F_SEAL_WRITE
held = mmap.mmap(file, 4096, prot=mmap.PROT_READ)`,
  },
  { what: 'private memory', source: 'import mmap\nheld = mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE)' },
];

for (const { what, source, refusal, more = [] } of families) {
  test(`${what} of parent and child: ${refusal === undefined ? 'either may go' : 'both go, or neither'}`, async () => {
    const subject = await startInState(`${source}\nif os.fork() == 0: time.sleep(3600)`);
    try {
      await until('there is a child', () => readChildren(subject.pid).length === 1);
      const [child = 0] = readChildren(subject.pid);
      const { verdicts } = await examine(child);
      const refused = objections(verdicts).filter(({ outcome }) => outcome === 'refused');
      assert.equal(words(refused), refusal === undefined ? [] : ['refused FOREIGN_MEMORY', ...more]);
      assert.match(refused[0]?.reason ?? '', refusal ?? /^$/);
      assert.equal(words((await examine(subject.pid)).verdicts), []);
    } finally {
      subject.kill();
    }
  });
}

test.run();
