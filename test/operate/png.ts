import { inflateSync } from 'node:zlib';

const SIGNATURE = '89504e470d0a1a0a';

/** A picture as it was decoded: rows of pixels. */
export interface Picture {
  readonly width: number;
  readonly height: number;
  /** As 0xrrggbb. */
  colourAt(x: number, y: number): number;
}

/** Reads a PNG of 8-bit RGB or RGBA without interlacing (RFC 2083), as browsers write them. @throws {Error} for others */
export function readPng(file: Buffer): Picture {
  if (file.toString('hex', 0, 8) !== SIGNATURE) throw new Error('no PNG');
  let [width, height, channels] = [0, 0, 0];
  const data: Buffer[] = [];
  for (let at = 8; at + 12 <= file.length; ) {
    const length = file.readUInt32BE(at);
    const body = file.subarray(at + 8, at + 8 + length);
    const kind = file.toString('latin1', at + 4, at + 8);
    if (kind === 'IHDR') {
      [width, height] = [body.readUInt32BE(0), body.readUInt32BE(4)];
      const [depth, colours, , , interlaced] = body.subarray(8);
      channels = colours === 6 ? 4 : colours === 2 ? 3 : 0;
      if (depth !== 8 || channels === 0 || interlaced !== 0) throw new Error('another kind of PNG');
    }
    if (kind === 'IDAT') data.push(body);
    at += 12 + length;
  }
  const pixels = unfilter(inflateSync(Buffer.concat(data)), width * channels, height, channels);
  return {
    width,
    height,
    colourAt: (x, y) => pixels.readUIntBE((Math.round(y) * width + Math.round(x)) * channels, 3),
  };
}

/** Each row begins with the number of the filter that it went through (RFC 2083, 6). */
function unfilter(raw: Buffer, stride: number, height: number, step: number): Buffer {
  const pixels = Buffer.alloc(stride * height);
  for (let row = 0; row < height; row++) {
    const filter = raw[row * (stride + 1)] ?? 0;
    for (let column = 0; column < stride; column++) {
      const at = row * stride + column;
      const left = column < step ? 0 : (pixels[at - step] ?? 0);
      const up = row === 0 ? 0 : (pixels[at - stride] ?? 0);
      const corner = row === 0 || column < step ? 0 : (pixels[at - stride - step] ?? 0);
      const guess = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter] ?? 0;
      pixels[at] = (raw[row * (stride + 1) + 1 + column] ?? 0) + guess;
    }
  }
  return pixels;
}

function paeth(left: number, up: number, corner: number): number {
  const guess = left + up - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}
