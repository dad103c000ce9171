import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { directionOf, fateOf } from '../../cli/migration/decision.js';
import type { ArrivalRecord, MigrationState } from '../../cli/migration/records.js';
import { suite } from '../suite.js';

/*
 * A model of one migration: what is durable (the records of coordinator and destination, CRIU's hooks) and what is real (the two
 * copies). Every act is one step; any node may crash before any of them, which forgets where its program stood. Then
 * the same decisions as the product's are taken from what is durable.
 */
type Copy = 'running' | 'held' | 'none';

class World {
  source: Copy = 'running';
  destination: Copy = 'none';
  state: MigrationState['state'] = 'preparing';
  outcome: ArrivalRecord['outcome'] = 'held';
  evidence = { restored: false, certain: false };
  /** CRIU was killed at the destination: what it had not made certain is lost. */
  criuDead = false;
  log: string[] = [];

  act(name: string, change: () => void): void {
    change();
    this.log.push(name);
    assert.ok(!(this.source === 'running' && this.destination === 'running'), `two copies: ${this.log.join(' ')}`);
    assert.ok(this.source !== 'none' || this.destination === 'running', `no copy: ${this.log.join(' ')}`);
  }
}

/** What the coordinator asks, one act after the other; it can be left between any two. */
function* coordinate(world: World): Generator<void, void> {
  for (;;) {
    switch (directionOf(world.state)) {
      case 'none':
        return;
      case 'tell':
        world.act('destination.abort', () => {
          world.destination = 'none';
        });
        yield;
        world.act('rolled-back', () => {
          world.state = 'rolled-back';
        });
        return;
      case 'forward': {
        const lost = yield* commitAtDestination(world);
        if (lost) {
          world.act('reverting', () => {
            world.state = 'reverting';
          });
          yield;
          continue;
        }
        yield;
        world.act('source.commit', () => {
          world.source = 'none';
        });
        yield;
        world.act('done', () => {
          world.state = 'done';
        });
        return;
      }
      case 'back':
        world.act('reverting', () => {
          world.state = 'reverting';
        });
        yield;
        world.act('source.abort', () => {
          world.source = 'running';
        });
        yield;
        world.act('reverted', () => {
          world.state = 'reverted';
        });
        yield;
    }
  }
}

/** The destination's part of the commit. @returns whether it said that its copy is lost. */
function* commitAtDestination(world: World): Generator<void, boolean> {
  const fate = fateOf(world.outcome, world.evidence);
  if (fate === 'lost' || (fate === 'release' && world.criuDead)) {
    world.act('lost', () => {
      world.outcome = 'lost';
      world.destination = 'none';
    });
    return true;
  }
  if (fate === 'release') {
    world.act('pre-resume', () => {
      world.evidence = { restored: true, certain: true };
    });
    yield;
  }
  world.act('confirmed', () => {
    world.outcome = 'running';
  });
  yield;
  world.act('runs', () => {
    world.destination = 'running';
  });
  return false;
}

/** The ordinary course up to the commit record. */
function* advance(world: World): Generator<void, void> {
  yield;
  world.act('freezing', () => {
    world.state = 'freezing';
  });
  yield;
  world.act('frozen', () => {
    world.source = 'held';
  });
  yield;
  if (!world.criuDead) {
    world.act('restored', () => {
      world.destination = 'held';
      world.evidence = { restored: true, certain: false };
    });
    yield;
    world.act('committed', () => {
      world.state = 'committed';
    });
    yield;
  }
}

function run(steps: Generator<void, unknown>, count: number): boolean {
  for (let step = 0; step < count; step++) if (steps.next().done === true) return true;
  return false;
}

const test = suite('what the journal says after any crash');

test('any prefix of any history, taken up again as often as it crashes, ends with exactly one copy', () => {
  const crashes = fc.array(fc.record({ after: fc.nat(9), killCriu: fc.boolean() }), { maxLength: 8 });
  fc.assert(
    fc.property(fc.nat(8), fc.boolean(), crashes, (prefix, killCriu, later) => {
      const world = new World();
      run(advance(world), prefix);
      if (killCriu) world.criuDead = true;
      for (const crash of later) {
        run(coordinate(world), crash.after);
        if (crash.killCriu) world.criuDead = true;
      }
      assert.ok(run(coordinate(world), 100), world.log.join(' '));
      assert.is(directionOf(world.state), 'none');
      assert.is([world.source, world.destination].filter((copy) => copy === 'running').length, 1, world.log.join(' '));
      assert.ok(world.source !== 'held' && world.destination !== 'held', world.log.join(' '));
    }),
    { numRuns: 3000 },
  );
});

test('a copy that was called lost once is lost for ever, whatever CRIU has left behind', () => {
  fc.assert(
    fc.property(fc.boolean(), fc.boolean(), (restored, certain) => {
      assert.is(fateOf('lost', { restored, certain }), 'lost');
    }),
  );
});

test('a copy that was let run is never called lost, also when every trace of CRIU is gone', () => {
  assert.is(fateOf('running', { restored: false, certain: false }), 'run');
});

test('a migration whose source runs again is never undone once more', () => {
  assert.is(directionOf('reverted'), 'tell');
});

test.run();
