/** `vmckpt serve`: a page server with its files, which are read again when they change. */
import { statSync } from 'node:fs';
import { VmckptError } from '../../errors.js';
import { AccessRules } from '../access.js';
import { formatAddress, requireSafe, type Address } from '../address.js';
import { DirectoryStore } from '../directory-store.js';
import { credentialFiles, readCredentials } from '../tls.js';
import type { ServerCounters } from './counters.js';
import { serveMetrics } from './metrics.js';
import { PageServer } from './page-server.js';

/** How often the access file and the certificates are looked at. */
const LOOK_EVERY_MS = 250;
/** For answers that are under way when the server ends. */
const GRACE_MS = 10_000;
/** The first descriptor that systemd gives. */
const FIRST_FD = 3;

export interface ServeOptions {
  readonly storeDir: string;
  readonly addresses: readonly Address[];
  readonly tlsDir: string;
  readonly accessFile?: string | undefined;
  readonly metrics?: Address | undefined;
  /** Plain TCP for other hosts, too. */
  readonly insecurePlaintext?: boolean | undefined;
  /** Ends the server. */
  readonly signal: AbortSignal;
  /** Called when the server takes connections. */
  readonly onListening: (addresses: readonly string[]) => void;
  readonly onMessage: (text: string) => void;
}

/**
 * Serves a store until the signal.
 * @throws VmckptError NO_STORE and others, as Store.open(); USAGE, HOST_FILE_MISSING, NOT_PERMITTED, FILE_EXISTS, FAILED
 */
export async function serve(options: ServeOptions): Promise<ServerCounters> {
  const { storeDir, addresses, tlsDir, accessFile, metrics, signal } = options;
  const fds = inheritedSockets();
  for (const address of addresses) requireSafe(address, options.insecurePlaintext);
  const needsTls =
    addresses.some(({ kind }) => kind === 'tls') || (fds > 0 && options.insecurePlaintext !== true);
  await (await DirectoryStore.open(storeDir)).close();
  const server = new PageServer({
    storeOf: (mayRead) => DirectoryStore.open(storeDir, { mayRead }),
    rules: accessFile === undefined ? AccessRules.readOnly : AccessRules.read(accessFile),
    credentials: needsTls ? readCredentials(tlsDir, 'server') : undefined,
  });
  const watched = watch(server, { ...options, needsTls });
  const listening: string[] = [];
  const http = metrics && (await serveMetrics(metrics, server.counters));
  try {
    for (let fd = FIRST_FD; fd < FIRST_FD + fds; fd++) listening.push(await server.adopt(fd));
    if (fds === 0)
      for (const address of addresses) listening.push(formatAddress(await server.listen(address)));
    options.onListening(listening);
    if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve));
  } finally {
    clearInterval(watched);
    http?.close();
    await server.close(GRACE_MS);
  }
  return server.counters;
}

/** Sockets that systemd listens on for this process (sd_listen_fds(3)). */
function inheritedSockets(): number {
  const { LISTEN_PID, LISTEN_FDS } = process.env;
  return LISTEN_PID === String(process.pid) ? Number(LISTEN_FDS) || 0 : 0;
}

function watch(
  server: PageServer,
  { accessFile, tlsDir, needsTls, onMessage }: ServeOptions & { readonly needsTls: boolean },
): NodeJS.Timeout {
  const actions: (() => void)[] = [];
  if (accessFile !== undefined)
    actions.push(onChange([accessFile], () => server.changeRules(rulesNow(accessFile, onMessage))));
  if (needsTls)
    actions.push(
      onChange(Object.values(credentialFiles(tlsDir, 'server')), () => {
        try {
          server.renewCredentials(readCredentials(tlsDir, 'server'));
          onMessage('The certificate was read again.');
        } catch (error) {
          onMessage(`The former certificate stays in use: ${String(error)}`);
        }
      }),
    );
  return setInterval(() => actions.forEach((act) => act()), LOOK_EVERY_MS);
}

/** A file that cannot be read permits nothing. */
function rulesNow(accessFile: string, onMessage: (text: string) => void): AccessRules {
  try {
    const rules = AccessRules.read(accessFile);
    onMessage('The access file was read again.');
    return rules;
  } catch (error) {
    if (!(error instanceof VmckptError)) throw error;
    onMessage(`No client has access: ${error.message}`);
    return AccessRules.parse('', accessFile);
  }
}

/** @returns a function that calls `act` when one of the files is another one than at its last call */
function onChange(files: readonly string[], act: () => void): () => void {
  const look = () =>
    files
      .map((file) => statSync(file, { throwIfNoEntry: false }))
      .map((found) => (found === undefined ? '' : `${found.ino} ${found.mtimeMs} ${found.size}`))
      .join();
  let known = look();
  return () => {
    const found = look();
    if (found === known) return;
    known = found;
    act();
  };
}
