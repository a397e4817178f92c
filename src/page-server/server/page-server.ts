/** A page server: listens, and serves every client with its own view of the store. */
import { once } from 'node:events';
import net from 'node:net';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError } from '../../errors.js';
import { removeStaleSocket, requireSocketPath } from '../../native/socket-path.js';
import { packageVersion } from '../../util/package-paths.js';
import { formatAddress, type Address } from '../address.js';
import type { RemoteStore } from '../contracts.js';
import { FEATURES, type Feature } from '../wire/messages.js';
import { ServerCounters } from './counters.js';
import { ServedConnection, type Patience } from './served-connection.js';

const PATIENCE: Patience = { helloMs: 10_000, idleMs: 60_000, stallMs: 30_000 };
const MAX_CONNECTIONS = 1024;
/** Only the owner may connect. */
const UMASK = 0o177;

/** Who a client is: the name in its certificate, or how it came without one. */
export type ClientName = string;
/** Cannot be a name in a certificate that the access file tells. */
export const LOCAL_CLIENT: ClientName = '(local)';

export interface PageServerOptions {
  /** What a client may see of the store. */
  readonly storeOf: (client: ClientName) => Promise<RemoteStore>;
  readonly features?: readonly Feature[];
  readonly patience?: Partial<Patience>;
  readonly maxConnections?: number;
}

export class PageServer {
  readonly counters = new ServerCounters();
  readonly #options: PageServerOptions;
  readonly #listeners = new Set<net.Server>();
  readonly #connections = new Map<ServedConnection, ClientName>();

  constructor(options: PageServerOptions) {
    this.#options = options;
  }

  /** @returns the address with the port that it got. @throws VmckptError USAGE, FILE_EXISTS, FAILED */
  async listen(address: Address): Promise<Address> {
    const server = net.createServer({ noDelay: true }, (socket) => this.#welcome(socket, LOCAL_CLIENT));
    this.#listeners.add(server);
    server.maxConnections = this.#options.maxConnections ?? MAX_CONNECTIONS;
    try {
      if (address.kind === 'unix') listenUnix(server, address.path);
      else server.listen(address.port, address.host);
      await once(server, 'listening');
    } catch (error) {
      throw listenFailure(address, error);
    }
    return address.kind === 'unix'
      ? address
      : { ...address, port: (server.address() as net.AddressInfo).port };
  }

  /** Takes nothing new, answers what is under way, and drops what is not done within `graceMs`. */
  async close(graceMs: number): Promise<void> {
    for (const listener of this.#listeners) listener.close();
    const closed = Promise.all([...this.#connections.keys()].map((connection) => connection.closed));
    for (const connection of this.#connections.keys()) connection.goAway();
    await Promise.race([closed, sleep(graceMs, undefined, { ref: false })]);
    for (const connection of this.#connections.keys()) connection.drop();
    await closed;
  }

  #welcome(socket: Duplex, client: ClientName): void {
    socket.on('error', () => socket.destroy());
    this.#serve(socket, client).catch(() => socket.destroy());
  }

  async #serve(stream: Duplex, client: ClientName): Promise<void> {
    const { storeOf, features = FEATURES, patience } = this.#options;
    const connection = new ServedConnection(stream, {
      store: await storeOf(client),
      features,
      patience: { ...PATIENCE, ...patience },
      counters: this.counters,
      agent: `vmckpt ${packageVersion()}`,
    });
    this.counters.connections++;
    this.counters.acceptedConnections++;
    this.#connections.set(connection, client);
    await connection.closed;
    this.#connections.delete(connection);
    this.counters.connections--;
  }
}

/** @throws VmckptError USAGE, FILE_EXISTS */
function listenUnix(server: net.Server, socketPath: string): void {
  requireSocketPath(socketPath);
  removeStaleSocket(socketPath, 'Stop that process, or use another path.');
  const umask = process.umask(UMASK);
  try {
    server.listen(socketPath);
  } finally {
    process.umask(umask);
  }
}

function listenFailure(address: Address, error: unknown): VmckptError {
  if (error instanceof VmckptError) return error;
  const reason = error instanceof Error ? error.message : String(error);
  return new VmckptError('FAILED', `cannot listen on ${formatAddress(address)}: ${reason}`, { cause: error });
}
