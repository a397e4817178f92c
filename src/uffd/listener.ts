/** The socket that a VMM connects to. Only its owner may connect; it never replaces something that is in use. */
import { on, once } from 'node:events';
import { closeSync, lstatSync, unlinkSync } from 'node:fs';
import net from 'node:net';
import { errnoOf } from '../checkpoint/files.js';
import { VmckptError } from '../errors.js';
import { connectUnix } from '../native/index.js';
import { requireFolderOf } from '../util/output-folder.js';
import { descriptorOf } from '../util/socket-descriptor.js';

/** sockaddr_un, without its terminating zero. */
const MAX_PATH_BYTES = 107;
/** Only the owner may connect. */
const UMASK = 0o177;
const MAX_WAITING = 16;

export interface Connection {
  /** Owned by the connection. */
  readonly fd: number;
  close(): void;
}

export class Listener {
  readonly #server: net.Server;

  private constructor(server: net.Server) {
    this.#server = server;
  }

  /** @throws VmckptError HOST_FILE_MISSING, FILE_EXISTS, NOT_PERMITTED, FAILED, USAGE */
  static async open(socketPath: string): Promise<Listener> {
    if (Buffer.byteLength(socketPath) > MAX_PATH_BYTES)
      throw new VmckptError(
        'USAGE',
        `a socket's path has at most ${MAX_PATH_BYTES} bytes, this one has ${Buffer.byteLength(socketPath)}`,
        { hint: 'Use a shorter path, for example relative to the working directory.' },
      );
    requireFolderOf(socketPath);
    try {
      removeStale(socketPath);
      const server = net.createServer({ pauseOnConnect: true });
      server.maxConnections = MAX_WAITING;
      const umask = process.umask(UMASK);
      try {
        server.listen(socketPath);
      } finally {
        process.umask(umask);
      }
      await once(server, 'listening');
      return new Listener(server);
    } catch (error) {
      throw listenFailure(error, socketPath);
    }
  }

  /** Yields connections as they come. Rejects with the signal's reason. */
  async *connections(signal: AbortSignal): AsyncGenerator<Connection> {
    try {
      for await (const [socket] of on(this.#server, 'connection', { signal }) as AsyncIterable<
        [net.Socket]
      >) {
        yield { fd: descriptorOf(socket), close: () => socket.destroy() };
      }
    } catch (error) {
      signal.throwIfAborted();
      throw error;
    }
  }

  /** Removes the socket's file as well. */
  close(): void {
    this.#server.close();
  }
}

/** A socket without a listener was left by a process that died. */
function removeStale(socketPath: string): void {
  const found = lstatSync(socketPath, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket())
    throw new VmckptError('FILE_EXISTS', `${socketPath} exists and is not a socket`, {
      hint: 'Use another path.',
    });
  try {
    closeSync(connectUnix(socketPath));
  } catch (error) {
    if (errnoOf(error) !== 'ECONNREFUSED') throw error;
    unlinkSync(socketPath);
    return;
  }
  throw new VmckptError('FILE_EXISTS', `another process listens on ${socketPath}`, {
    hint: 'Every VM needs its own handler: use another path.',
  });
}

function listenFailure(error: unknown, socketPath: string): unknown {
  const errno = errnoOf(error);
  if (error instanceof VmckptError || errno === undefined) return error;
  const code = errno === 'EACCES' || errno === 'EPERM' || errno === 'EROFS' ? 'NOT_PERMITTED' : 'FAILED';
  return new VmckptError(code, `cannot listen on ${socketPath}: ${(error as Error).message}`, {
    hint: 'Use a path in an existing directory that this user may write to.',
    cause: error,
  });
}
