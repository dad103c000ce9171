import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { INVENTORY } from '../checkpoint/criu.js';
import { createImageFolder, wipeImageFolder } from '../checkpoint/image-folder.js';
import { UserError } from '../errors.js';
import { Ahead } from '../migration/difference.js';
import { decodeImages, encodeImages, keepAhead } from '../migration/image-stream.js';
import { nothing } from '../migration/messages.js';
import { defineUpload, type PeerClient, type PeerContext, serveUpload, type UploadHandler } from './peer-transport.js';

const aheadUpload = defineUpload({ name: 'rehearsal-ahead', response: nothing });
const imagesUpload = defineUpload({ name: 'rehearsal-images', response: nothing });

const ROUNDS = 6;
const IMAGE_BYTES = 8 << 20;
const CHUNK_BYTES = 128 << 10;
const FOLDER = 'rehearsal';

/**
 * Sends images that mean nothing to this very node, the way that real ones travel: half of the memory is known there, half is
 * new. The first 30 MB that a new daemon sends and receives go at a fifth of the speed of the later ones, while V8 still
 * interprets and compiles the code (measured: 9 MB in 60 to 130 ms, then in 9 to 15); those need not be the ones for which a
 * process stands still.
 * @param self a client of this node's own peer server.
 */
export async function rehearse(self: PeerClient, imageRoot: string): Promise<void> {
  const folder = join(imageRoot, FOLDER);
  createImageFolder(folder);
  try {
    const memory = randomBytes(IMAGE_BYTES);
    const ahead = memory.subarray(0, IMAGE_BYTES / 2);
    writeFileSync(join(folder, INVENTORY), 'rehearsal', { mode: 0o600 });
    for (let round = 0; round < ROUNDS; round++) {
      const underway = { pages: inChunks(memory), ahead: new Ahead(ahead), dumped: Promise.resolve() };
      await self.stream(aheadUpload, String(round), inChunks(ahead));
      await self.stream(imagesUpload, String(round), encodeImages(folder, underway));
    }
  } finally {
    wipeImageFolder(folder);
    self.close();
  }
}

async function* inChunks(bytes: Buffer): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) yield bytes.subarray(at, at + CHUNK_BYTES);
}

/** The receiving ends. Nobody but this node itself may rehearse here. */
export function rehearsalHandlers(node: string, imageRoot: string): UploadHandler<PeerContext>[] {
  const folderOf = (round: string, peer: string): string => {
    if (peer === node && /^\d$/.test(round)) return join(imageRoot, `${FOLDER}-${round}`);
    throw new UserError({ code: 'NOT_YOURS', message: `${peer} has nothing to rehearse here`, exitStatus: 4 });
  };
  return [
    serveUpload(aheadUpload, async (round, body, { peer }: PeerContext) => {
      const folder = folderOf(round, peer);
      createImageFolder(folder);
      await keepAhead(body, folder, IMAGE_BYTES);
      return {};
    }),
    serveUpload(imagesUpload, async (round, body, { peer }: PeerContext) => {
      const folder = folderOf(round, peer);
      try {
        await decodeImages(body, folder, 2 * IMAGE_BYTES);
      } finally {
        wipeImageFolder(folder);
      }
      return {};
    }),
  ];
}
