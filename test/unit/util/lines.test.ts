import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { PassThrough, type Readable } from 'node:stream';
import { expect, it, onTestFinished } from 'vitest';
import { readLines } from '../../../src/util/lines.js';
import { suiteDirectory } from '../../support/vitest.js';

const directory = suiteDirectory();

/** What a reader saw, once it has been told of the end. */
function readAll(stream: Readable, maxLineBytes = 100): Promise<string[]> {
  const seen: string[] = [];
  return new Promise((resolve) => {
    readLines(stream, { maxLineBytes, onLine: (line) => seen.push(line), onEnd: () => resolve(seen) });
  });
}

it('lines are told one by one, and then the end of the stream', async () => {
  const stream = new PassThrough();
  const seen = readAll(stream);
  for (const piece of ['on', 'e\ntwo\nth', 'ree\nrest']) stream.write(piece);
  stream.end();
  expect(await seen).toEqual(['one', 'two', 'three']);
});

it('lines of a socket end, too, when the other end dies with unread words in it', async () => {
  const file = path.join(directory, 'socket');
  const server = net.createServer({ pauseOnConnect: true }).listen(file);
  onTestFinished(() => void server.close());
  await once(server, 'listening');
  const client = net.connect(file);
  const [peer] = (await once(server, 'connection')) as [net.Socket];
  const seen = readAll(client);
  const failed = once(client, 'error');
  peer.write('last words\n');
  client.write('never read\n');
  await once(client, 'data');
  peer.destroy();
  expect(await seen).toEqual(['last words']);
  expect(await failed).toMatchObject([{ code: 'ECONNRESET' }]);
});

it('lines that have no end are the end', async () => {
  const stream = new PassThrough();
  const seen = readAll(stream, 10);
  stream.write('short\n');
  stream.write('x'.repeat(11));
  expect(await seen).toEqual(['short']);
});
