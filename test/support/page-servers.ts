/** Page servers in the process of the test. */
import path from 'node:path';
import { onTestFinished } from 'vitest';
import { formatAddress, type Address } from '../../src/page-server/address.js';
import { connectStore, type ConnectOptions } from '../../src/page-server/client/server-store.js';
import type { RemoteStore } from '../../src/page-server/contracts.js';
import { DirectoryStore } from '../../src/page-server/directory-store.js';
import { makeCertificates } from '../../src/page-server/make-certificates.js';
import { PageServer, type PageServerOptions } from '../../src/page-server/server/page-server.js';
import { readCredentials } from '../../src/page-server/tls.js';
import { temporaryDir } from '../unit/checkpoint/synthetic.js';

export interface RunningServer {
  readonly server: PageServer;
  readonly address: string;
  readonly connect: (options?: ConnectOptions) => RemoteStore;
}

/** A CA with a server on this host and clients. */
export interface Certificates {
  readonly server: string;
  readonly clientDir: (name: string) => string;
}

export async function certificates(dir: string, clients: readonly string[]): Promise<Certificates> {
  await makeCertificates({ dir, servers: ['127.0.0.1'], clients, days: 1 });
  return { server: path.join(dir, '127.0.0.1'), clientDir: (name) => path.join(dir, name) };
}

/** Serves a store until the test ends. */
export async function runPageServer(
  storeDir: string,
  kind: Address['kind'],
  { tlsDir, ...options }: Partial<PageServerOptions> & { readonly tlsDir?: string } = {},
): Promise<RunningServer> {
  const server = new PageServer({
    storeOf: (mayRead) => DirectoryStore.open(storeDir, { mayRead }),
    credentials: tlsDir === undefined ? undefined : readCredentials(tlsDir, 'server'),
    ...options,
  });
  const wanted: Address =
    kind === 'unix'
      ? { kind, path: path.join(temporaryDir(), 'pages.sock') }
      : { kind, host: '127.0.0.1', port: 0 };
  const address = formatAddress(await server.listen(wanted));
  onTestFinished(() => server.close(0));
  const connect = (connectOptions?: ConnectOptions) => {
    const connected = connectStore(address, connectOptions);
    onTestFinished(() => connected.close());
    return connected;
  };
  return { server, address, connect };
}
