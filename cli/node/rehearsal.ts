import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { INVENTORY } from '../checkpoint/criu.js';
import { createImageFolder, wipeImageFolder } from '../checkpoint/image-folder.js';
import { UserError } from '../errors.js';
import { decodeImages, encodeImages } from '../migration/image-stream.js';
import { nothing } from '../migration/messages.js';
import { defineUpload, type PeerClient, type PeerContext, serveUpload, type UploadHandler } from './peer-transport.js';

const rehearsalUpload = defineUpload({ name: 'rehearsal', response: nothing });

const ROUNDS = 4;
const IMAGE_BYTES = 8 << 20;

/**
 * Sends images that mean nothing to this very node, the way that real ones travel. The first 30 MB that a new daemon sends
 * and receives go at a fifth of the speed of the later ones, while V8 still interprets the code (measured: 9 MB in 60 to
 * 130 ms, then in 9 to 15); those need not be the ones for which a process stands still.
 * @param self a client of this node's own peer server.
 */
export async function rehearse(self: PeerClient, imageRoot: string): Promise<void> {
  const folder = join(imageRoot, 'rehearsal');
  createImageFolder(folder);
  try {
    writeFileSync(join(folder, 'pages-1.img'), randomBytes(IMAGE_BYTES), { mode: 0o600 });
    writeFileSync(join(folder, INVENTORY), 'rehearsal', { mode: 0o600 });
    for (let round = 0; round < ROUNDS; round++)
      await self.stream(rehearsalUpload, String(round), encodeImages(folder));
  } finally {
    wipeImageFolder(folder);
    self.close();
  }
}

/** The receiving end. Nobody but this node itself may rehearse here. */
export function rehearsalHandler(node: string, imageRoot: string): UploadHandler<PeerContext> {
  return serveUpload(rehearsalUpload, async (round, body, { peer }: PeerContext) => {
    if (peer !== node || !/^\d$/.test(round)) {
      throw new UserError({ code: 'NOT_YOURS', message: `${peer} has nothing to rehearse here`, exitStatus: 4 });
    }
    const folder = join(imageRoot, `rehearsal-${round}`);
    createImageFolder(folder);
    try {
      await decodeImages(body, folder, 2 * IMAGE_BYTES);
    } finally {
      wipeImageFolder(folder);
    }
    return {};
  });
}
