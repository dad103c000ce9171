import { pino } from 'pino';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { z } from 'zod';
import { UserError } from '../../cli/errors.js';
import { defineMethod, serve } from '../../cli/node/method.js';
import { client, closeAll, failure, makeWorld, server, type World } from './transport-nodes.js';

const test = suite<World>('peer transport: its log');

test.before(makeWorld);
test.after.each(closeAll);

const freeze = defineMethod({
  name: 'freeze',
  request: z.object({ migration: z.string(), secret: z.string() }),
  response: z.object({}),
});

test('a call that fails is logged with its caller, its migration and the reason, and nothing else of what it carried', async (world) => {
  const lines: string[] = [];
  const { port } = await server(world.host1, {
    logger: pino({}, { write: (line: string) => lines.push(line) }),
    methods: [
      serve(freeze, async () => {
        throw new UserError({ code: 'NOT_EXPECTED', message: 'nobody expects that' });
      }),
    ],
  });
  await failure(client(world.home, port).call(freeze, { migration: 'm-1', secret: 'hush' }));
  assert.is(lines.length, 1);
  const { peer, migration, code, reason } = JSON.parse(lines[0] ?? '{}') as Record<string, string>;
  assert.equal(
    { peer, migration, code, reason },
    {
      peer: 'home',
      migration: 'm-1',
      code: 'NOT_EXPECTED',
      reason: 'nobody expects that',
    },
  );
  assert.not.match(lines[0] ?? '', 'hush');
});

test.run();
