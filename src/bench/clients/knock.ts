/**
 * How a client finds the restored guest. QEMU's user-mode network keeps no connection of the host's over a save, so
 * every client has to connect anew, without knowing when: it tries in a tight loop until memcached answers.
 */
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { nowMs } from '../../timeline/clock.js';

/** A port that refuses is tried again after this time, because QEMU does not listen yet. */
const REFUSED_RETRY_MS = 3;
/** While nothing answers another attempt begins this often, beside those under way. */
const HEDGE_MS = 50;
/** Then an attempt is given up: its first packet may have been dropped, and comes again only after a second or more. */
const ATTEMPT_MS = 500;

export const PROBE = 'version\r\n';

/** A connection on which the guest has answered the probe. */
export interface OpenedConnection {
  readonly socket: net.Socket;
  readonly sentAtMs: number;
  readonly answeredAtMs: number;
  /** The time of the answer. */
  readonly probeAnswerBytes: number;
}

/** @throws the signal's reason */
export async function knock(port: number, signal: AbortSignal): Promise<OpenedConnection> {
  const attempts = new Set<net.Socket>();
  const opened: { first?: OpenedConnection } = {};
  let lastAtMs = -Infinity;
  try {
    while (opened.first === undefined) {
      signal.throwIfAborted();
      if (attempts.size === 0 || nowMs() - lastAtMs >= HEDGE_MS) {
        lastAtMs = nowMs();
        attemptOnce(port, attempts, (connection) => (opened.first ??= connection));
      }
      await sleep(REFUSED_RETRY_MS);
    }
    attempts.delete(opened.first.socket);
    return opened.first;
  } finally {
    for (const socket of attempts) socket.destroy();
  }
}

function attemptOnce(
  port: number,
  attempts: Set<net.Socket>,
  onOpen: (connection: OpenedConnection) => void,
): void {
  const socket = net.connect({ port, host: '127.0.0.1', noDelay: true });
  attempts.add(socket);
  const giveUp = setTimeout(() => socket.destroy(), ATTEMPT_MS);
  let sentAtMs = 0;
  socket
    .once('connect', () => {
      sentAtMs = nowMs();
      socket.write(PROBE);
    })
    .once('data', (answer) => {
      clearTimeout(giveUp);
      socket.pause();
      onOpen({ socket, sentAtMs, answeredAtMs: nowMs(), probeAnswerBytes: answer.length });
    })
    .on('error', () => undefined) // 'close' follows
    .once('close', () => {
      clearTimeout(giveUp);
      attempts.delete(socket);
    });
}
