import * as assert from 'uvu/assert';
import { UserError } from '../../cli/errors.js';
import { drain } from '../../cli/node/drain.js';
import type { Drainee } from '../../cli/node/drainee.js';
import type { DrainHow, DrainItem } from '../../cli/node/policy-methods.js';
import { suite } from '../suite.js';

const guest = (pid: number): DrainItem => ({ kind: 'guest', twin: `home-${pid}-abc`, pid, name: 'a', home: 'home' });

/** A node with guests, each of which leaves when the test says so. */
class Node implements Drainee {
  readonly name = 'host1';
  readonly marks: boolean[] = [];
  readonly told: DrainHow[] = [];
  readonly underway = new Map<number, { left(): void; stays(error: Error): void }>();
  most = 0;
  coming = 0;
  private wake: () => void = () => undefined;

  constructor(public items: DrainItem[]) {}

  async mark(draining: boolean) {
    this.marks.push(draining);
    return { before: false, items: this.items, coming: this.coming };
  }

  async move(item: DrainItem, how: DrainHow) {
    this.told.push(how);
    const done = new Promise<void>((resolve, reject) => this.underway.set(item.pid, { left: resolve, stays: reject }));
    this.most = Math.max(this.most, this.underway.size);
    this.wake();
    try {
      await done;
      this.items = this.items.filter(({ pid }) => pid !== item.pid);
      return { to: 'home', freezeMs: 1 };
    } finally {
      this.underway.delete(item.pid);
    }
  }

  async begun(pid: number): Promise<{ left(): void; stays(error: Error): void }> {
    for (;;) {
      const found = this.underway.get(pid);
      if (found !== undefined) return found;
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
  }
}

const test = suite('a drain');

function start(node: Node, parallel: number, how: DrainHow = {}) {
  const controller = new AbortController();
  const events: string[] = [];
  const emit = (event: { event: string }): boolean => {
    events.push(event.event);
    return true;
  };
  const report = drain(node, { parallel, signal: controller.signal, emit, ...how });
  return { report, events, interrupt: () => controller.abort() };
}

test('moves at most so many at the same time, and tells of each', async () => {
  const node = new Node([guest(1), guest(2), guest(3)]);
  const { report, events } = start(node, 2);
  for (const pid of [1, 2, 3]) (await node.begun(pid)).left();
  const { processes, draining } = await report;
  assert.equal([node.most, draining, events.length], [2, true, 6]);
  assert.equal(
    processes.map(({ pid, outcome, to }) => [pid, outcome, to]).sort(),
    [1, 2, 3].map((pid) => [pid, 'moved', 'home']),
  );
});

test('tells how they leave', async () => {
  const node = new Node([guest(1)]);
  const { report } = start(node, 1, { resetClosing: true });
  (await node.begun(1)).left();
  await report;
  assert.equal(node.told, [{ resetClosing: true }]);
});

test('tries nobody twice, and says why somebody stays', async () => {
  const node = new Node([guest(1)]);
  const { report } = start(node, 2);
  (await node.begun(1)).stays(new UserError({ code: 'NO_HOST', message: 'there is no host' }));
  assert.equal((await report).processes, [
    { pid: 1, name: 'a', home: 'home', outcome: 'failed', error: { code: 'NO_HOST', message: 'there is no host' } },
  ]);
});

test('waits for those that were on their way when the node was marked', async () => {
  const node = new Node([]);
  node.coming = 1;
  const { report } = start(node, 1);
  setTimeout(() => {
    node.items = [guest(4)];
    node.coming = 0;
  }, 0);
  (await node.begun(4)).left();
  assert.equal(
    (await report).processes.map(({ pid, outcome }) => [pid, outcome]),
    [[4, 'moved']],
  );
});

test('that is interrupted begins no more, waits for what goes on, and leaves the mark', async () => {
  const node = new Node([guest(1), guest(2)]);
  const { report, interrupt } = start(node, 1);
  const first = await node.begun(1);
  interrupt();
  first.left();
  assert.equal(
    (await report).processes.map(({ pid, outcome }) => [pid, outcome]),
    [
      [1, 'moved'],
      [2, 'not-tried'],
    ],
  );
  assert.not(node.marks.includes(false));
});

test.run();
