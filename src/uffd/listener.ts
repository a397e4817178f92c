/** The socket that a VMM connects to. Only its owner may connect; it never replaces something that is in use. */
import { on, once } from 'node:events';
import net from 'node:net';
import { errnoOf } from '../checkpoint/files.js';
import { VmckptError } from '../errors.js';
import { removeStaleSocket, requireSocketPath } from '../native/socket-path.js';
import { requireFolderOf } from '../util/output-folder.js';
import { descriptorOf } from '../util/socket-descriptor.js';

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
    requireSocketPath(socketPath);
    requireFolderOf(socketPath);
    try {
      removeStaleSocket(socketPath, 'Every VM needs its own handler: use another path.');
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

function listenFailure(error: unknown, socketPath: string): unknown {
  const errno = errnoOf(error);
  if (error instanceof VmckptError || errno === undefined) return error;
  const code = errno === 'EACCES' || errno === 'EPERM' || errno === 'EROFS' ? 'NOT_PERMITTED' : 'FAILED';
  return new VmckptError(code, `cannot listen on ${socketPath}: ${(error as Error).message}`, {
    hint: 'Use a path in an existing directory that this user may write to.',
    cause: error,
  });
}
