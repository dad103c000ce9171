/** A server as people write it: answers GET /bytes/<n> with so many bytes, and POST with the SHA-256 of what it got. */
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';

const server = createServer((request, response) => {
  const [path = '', number = ''] = (request.url ?? '').split('?');
  response.setHeader('X-Number', number);
  if (request.method === 'POST') {
    const hash = createHash('sha256');
    request.on('data', (chunk: Buffer) => hash.update(chunk)).on('end', () => response.end(hash.digest('hex')));
    return;
  }
  const content = Buffer.alloc(Number(path.split('/')[2]), `${path}\n`);
  // in two parts, so that it is sent in chunks
  response.write(content.subarray(0, content.length / 2));
  response.end(content.subarray(content.length / 2));
});
server.keepAliveTimeout = 60_000;
server.listen(Number(process.argv[2]), '0.0.0.0');
