import { Readable } from 'node:stream';
import { pino } from 'pino';
import * as assert from 'uvu/assert';
import { z } from 'zod';
import { UserError } from '../../cli/errors.js';
import { defineMethod, defineUpload, serve, serveUpload } from '../../cli/node/method.js';
import { suite } from '../suite.js';
import { client, closeAll, failure, makeWorld, server, type World } from './transport-nodes.js';

const test = suite<World>('peer transport: its log');

test.before(makeWorld);
test.after.each(closeAll);

const freeze = defineMethod({
  name: 'freeze',
  request: z.object({ migration: z.string(), secret: z.string() }),
  response: z.object({}),
});

const images = defineUpload({ name: 'images', response: z.object({}) });

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

test('so is an upload, whose name is the migration', async (world) => {
  const lines: string[] = [];
  const { port } = await server(world.host1, {
    logger: pino({}, { write: (line: string) => lines.push(line) }),
    uploads: [
      serveUpload(images, async () => {
        throw new UserError({ code: 'NOT_EXPECTED', message: 'nobody expects that' });
      }),
    ],
  });
  const sending = client(world.home, port).stream(images, 'm-mi9k2x1c-0f3a9b12', Readable.from([Buffer.from('x')]));
  await failure(sending);
  const { migration, code } = JSON.parse(lines[0] ?? '{}') as Record<string, string>;
  assert.equal([migration, code], ['m-mi9k2x1c-0f3a9b12', 'NOT_EXPECTED']);
});

test.run();
