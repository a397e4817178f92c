/** A page server: listens, and serves every client with its own view of the store. */
import { once } from 'node:events';
import net from 'node:net';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Server as TlsServer } from 'node:tls';
import { VmckptError } from '../../errors.js';
import { removeStaleSocket, requireSocketPath } from '../../native/socket-path.js';
import { packageVersion } from '../../util/package-paths.js';
import { AccessRules, LOCAL_CLIENT, PLAIN_CLIENT, type Access } from '../access.js';
import { formatAddress, type Address } from '../address.js';
import type { RemoteStore } from '../contracts.js';
import { requireCertificate, serverContext, tlsServer, type Credentials } from '../tls.js';
import { FEATURES } from '../wire/messages.js';
import { ServerCounters } from './counters.js';
import { refuse } from './outbox.js';
import { ServedConnection, type Patience } from './served-connection.js';

const PATIENCE: Patience = { helloMs: 10_000, idleMs: 60_000, stallMs: 30_000 };
const MAX_CONNECTIONS = 1024;
/** Only the owner may connect. */
const UMASK = 0o177;

export interface PageServerOptions {
  /** The store of a client that may read the checkpoints of certain names. */
  readonly storeOf: (mayRead: (name: string) => boolean) => Promise<RemoteStore>;
  readonly rules?: AccessRules;
  /** For addresses with TLS. */
  readonly credentials?: Credentials | undefined;
  readonly patience?: Partial<Patience>;
}

export class PageServer {
  readonly counters = new ServerCounters();
  readonly #options: PageServerOptions;
  readonly #listeners = new Set<net.Server>();
  readonly #connections = new Map<ServedConnection, string>();
  readonly #tls: TlsServer | undefined;
  #rules: AccessRules;

  constructor(options: PageServerOptions) {
    const { rules = AccessRules.readOnly, credentials } = options;
    this.#options = options;
    this.#rules = rules;
    if (credentials === undefined) return;
    this.#tls = tlsServer(credentials);
    this.#tls.on('secureConnection', (socket) => this.#welcome(socket, () => requireCertificate(socket)));
    this.#tls.on('tlsClientError', (_error, socket) => {
      this.counters.droppedConnections++;
      socket.destroy();
    });
  }

  /** @returns the address with the port that it got. @throws VmckptError USAGE, FILE_EXISTS, FAILED */
  async listen(address: Address): Promise<Address> {
    const server = this.#makeListener((socket) => this.#take(socket, address.kind));
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

  /**
   * Listens on a socket that systemd has made: with TLS, if it is one of the network.
   * @returns what messages call it: its address, or its descriptor
   */
  async adopt(fd: number): Promise<string> {
    const addressOf = (): Address | undefined => {
      const found = server.address();
      if (found === null || typeof found === 'string') return undefined;
      return { kind: this.#tls === undefined ? 'tcp' : 'tls', host: found.address, port: found.port };
    };
    const server = this.#makeListener((socket) => this.#take(socket, addressOf()?.kind ?? 'unix'));
    server.listen({ fd });
    await once(server, 'listening');
    const address = addressOf();
    return address === undefined ? `fd:${fd}` : formatAddress(address);
  }

  /** Connections that were made before keep what they have agreed on. */
  renewCredentials(credentials: Credentials): void {
    this.#tls?.setSecureContext(serverContext(credentials));
  }

  /** They apply at once: who has open what it may not have any more is dropped. */
  changeRules(rules: AccessRules): void {
    this.#rules = rules;
    for (const [connection, client] of this.#connections)
      if (rules.of(client) === undefined || !connection.isPermitted) connection.drop();
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

  #makeListener(onSocket: (socket: net.Socket) => void): net.Server {
    const server = net.createServer({ noDelay: true }, onSocket);
    server.maxConnections = MAX_CONNECTIONS;
    this.#listeners.add(server);
    return server;
  }

  #take(socket: net.Socket, kind: Address['kind']): void {
    if (kind !== 'tls') this.#welcome(socket, () => (kind === 'unix' ? LOCAL_CLIENT : PLAIN_CLIENT));
    else if (this.#tls === undefined) socket.destroy();
    else this.#tls.emit('connection', socket);
  }

  /** @param nameOf who the client is. It throws when that cannot be told. */
  #welcome(socket: Duplex, nameOf: () => string): void {
    socket.on('error', () => socket.destroy());
    const serve = async () => this.#serve(socket, this.#requireKnown(nameOf()));
    serve().catch((error: unknown) => {
      this.counters.droppedConnections++;
      refuse(socket, error);
    });
  }

  /** @throws VmckptError NOT_PERMITTED */
  #requireKnown(client: string): string {
    if (this.#rules.of(client) !== undefined) return client;
    throw new VmckptError('NOT_PERMITTED', `the client "${client}" is not in the access file`);
  }

  async #serve(stream: Duplex, client: string): Promise<void> {
    const { storeOf, patience } = this.#options;
    const access: Access = (right, name) => this.#rules.of(client)?.(right, name) ?? false;
    const connection = new ServedConnection(stream, {
      store: await storeOf((name) => access('read', name)),
      access,
      features: FEATURES,
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
