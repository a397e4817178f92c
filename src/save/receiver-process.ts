/**
 * What native/core/receiver.h is, where there is no addon: a process that outlives the save, and keeps the pipe open that
 * QEMU sends to. Standard input is the consumer; when it has gone, the stream is read from descriptor 3 to its end.
 */
import { writeFileSync } from 'node:fs';
import { Socket } from 'node:net';
import { debug } from '../util/debug.js';

const CONSUMER_FD = 0;
const STREAM_FD = 3;

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
try {
  writeFileSync('/proc/self/oom_score_adj', '-1000');
} catch {
  // Only the superuser may; without that the kernel may choose this process.
}
debug('receiver', () => 'waits for the end of the save');
untilEnd(CONSUMER_FD, () => {
  debug('receiver', () => 'the save is over; reads the rest of the stream');
  untilEnd(STREAM_FD, () => {
    debug('receiver', () => 'the stream has ended');
    process.exit();
  });
});

function untilEnd(fd: number, then: () => void): void {
  const socket = new Socket({ fd, writable: false });
  socket.on('error', () => undefined); // then it closes
  socket.once('close', then);
  socket.resume();
}
