import { type Callback, type Test, suite as uvuSuite, test as uvuTest } from 'uvu';

/**
 * uvu's suite, whose hooks say why they failed: uvu 0.5.6 forgets what they threw (a `return` in its `finally`), and all that is
 * left is "0 of 12 tests passed".
 * @param title for people
 */
export function suite<World = Record<string, unknown>>(title: string): Test<World> {
  return telling(uvuSuite<World>(title), title);
}

/** As {@link suite}, for a file with one suite that needs no name. */
export const test: typeof uvuTest = telling(uvuTest, '');

function telling<World>(tests: Test<World>, title: string): Test<World> {
  const { before, after } = tests;
  const hooks = (when: 'before' | 'after', hook: Test<World>['before']): Test<World>['before'] =>
    Object.assign((action: Callback<World>) => hook(tell(action, `${when} the tests of "${title}"`)), {
      each: (action: Callback<World>) => hook.each(tell(action, `${when} a test of "${title}"`)),
    });
  return Object.assign(tests, { before: hooks('before', before), after: hooks('after', after) });
}

function tell<World>(action: Callback<World>, when: string): Callback<World> {
  return async (world) => {
    try {
      await action(world);
    } catch (error) {
      console.log(`\n   FAIL  ${when}\n   `, error);
      throw error;
    }
  };
}
