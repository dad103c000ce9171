import { inspect } from 'node:util';
import { type Callback, type Context, suite as silent, type Test } from 'uvu';

/**
 * A suite of uvu whose hooks are heard when they fail: uvu 0.5.6 runs no test after that, and says neither that it was a hook nor
 * what happened.
 */
export function suite<T = Context>(name: string, context?: T): Test<T> {
  const made = silent<T>(name, context);
  const { before, after } = made;
  made.before = heard(before, before.each, name);
  made.after = heard(after, after.each, name);
  return made;
}

type Register<T> = (hook: Callback<T>) => void;

function heard<T>(register: Register<T>, each: Register<T>, name: string): Register<T> & { each: Register<T> } {
  const saying =
    (hook: Callback<T>): Callback<T> =>
    async (context) => {
      try {
        await hook(context);
      } catch (error) {
        console.error(`\na hook of "${name}" failed: ${inspect(error)}`);
        throw error;
      }
    };
  return Object.assign((hook: Callback<T>) => register(saying(hook)), {
    each: (hook: Callback<T>) => each(saying(hook)),
  });
}
