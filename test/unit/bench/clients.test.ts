import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { AnswerLog } from '../../../src/bench/clients/load.js';
import { pickKey } from '../../../src/bench/clients/memcached.js';
import { Pipeline } from '../../../src/bench/clients/pipeline.js';
import { seededRandom, shuffled } from '../../../src/bench/random.js';
import { freePort } from '../../../src/bench/workloads.js';
import { until } from '../../support/until.js';

test('a pipeline finds a guest that listens late, and tells apart answers that come in pieces', async () => {
  const port = await freePort();
  const ending = new AbortController();
  onTestFinished(() => ending.abort());
  const log = new AnswerLog();
  const pipeline = new Pipeline({ port, log, maxOutstanding: 2, signal: ending.signal });
  const opened = pipeline.open();
  await sleep(30);
  const requests: string[] = [];
  const server = net.createServer((socket) =>
    // The last answer may find the test over.
    socket
      .on('error', () => undefined)
      .on('data', (text) => {
        const request = String(text);
        if (request.startsWith('version')) return socket.write('VERSION 1\r\n');
        requests.push(request);
        socket.write('0123');
        return setTimeout(() => socket.write('45678901234'), 20);
      }),
  );
  server.listen(port, '127.0.0.1');
  onTestFinished(() => void server.close());
  await opened;
  expect(log.answeredAtMs).toHaveLength(1);
  expect(pipeline.probeAnswerBytes).toBe('VERSION 1\r\n'.length);
  expect(pipeline.request('a', 5)).toBe(true);
  expect(pipeline.request('b', 10)).toBe(true);
  expect(pipeline.request('c', 5)).toBe(false);
  await until('both answers', () => log.answeredAtMs.length === 3);
  expect(pipeline.request('c', 5)).toBe(true);
  expect(requests.join('')).toBe('ab');
});

test('nine of ten gets go to a tenth of the keys', () => {
  const random = seededRandom(1);
  const picks = Array.from({ length: 10_000 }, () => pickKey(1000, random));
  const hot = picks.filter((key) => key < 100).length;
  expect(hot).toBeGreaterThan(8_800);
  expect(hot).toBeLessThan(9_200);
  expect(Math.max(...picks)).toBeLessThan(1000);
});

test('a seed repeats the order of the measurements, another one gives another', () => {
  const all = Array.from({ length: 50 }, (_, at) => at);
  const order = shuffled(all, seededRandom(7));
  expect(shuffled(all, seededRandom(7))).toEqual(order);
  expect(shuffled(all, seededRandom(8))).not.toEqual(order);
  expect([...order].sort((a, b) => a - b)).toEqual(all);
});
