/** Page servers in the process of the test. */
import path from 'node:path';
import { onTestFinished } from 'vitest';
import { formatAddress, type Address } from '../../src/page-server/address.js';
import { connectStore, type ConnectOptions } from '../../src/page-server/client/server-store.js';
import type { RemoteStore } from '../../src/page-server/contracts.js';
import { DirectoryStore } from '../../src/page-server/directory-store.js';
import { PageServer, type PageServerOptions } from '../../src/page-server/server/page-server.js';
import { temporaryDir } from '../unit/checkpoint/synthetic.js';

export interface RunningServer {
  readonly server: PageServer;
  readonly address: string;
  readonly connect: (options?: ConnectOptions) => RemoteStore;
}

/** Serves a store until the test ends. */
export async function runPageServer(
  storeDir: string,
  kind: 'unix' | 'tcp',
  options: Partial<PageServerOptions> = {},
): Promise<RunningServer> {
  const server = new PageServer({ storeOf: () => DirectoryStore.open(storeDir), ...options });
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
