/** Connects to an address: the byte stream of a connection, before hello. */
import net from 'node:net';
import type { Duplex } from 'node:stream';
import { errnoOf } from '../../checkpoint/files.js';
import { VmckptError } from '../../errors.js';
import { withDeadline } from '../../util/deadline.js';
import { formatAddress, requireSafe, type Address } from '../address.js';
import { defaultTlsDir, readCredentials, tlsClient } from '../tls.js';

export interface DialOptions {
  /** Where this client's certificate is; defaultTlsDir() by default. */
  readonly tlsDir?: string | undefined;
  /** Plain TCP to other hosts, too: whoever is on the way reads and changes memory. */
  readonly insecurePlaintext?: boolean | undefined;
  readonly timeoutMs: number;
}

/**
 * @throws VmckptError SOURCE_UNAVAILABLE; TLS_REFUSED; HOST_FILE_MISSING without a certificate; USAGE for plain TCP to another
 *   host
 */
export async function dial(address: Address, options: DialOptions): Promise<Duplex> {
  requireSafe(address, options.insecurePlaintext);
  const label = formatAddress(address);
  const credentials =
    address.kind === 'tls' ? readCredentials(options.tlsDir ?? defaultTlsDir(), 'client') : undefined;
  const socket =
    address.kind === 'unix'
      ? net.connect({ path: address.path })
      : net.connect({ host: address.host, port: address.port, noDelay: true });
  const make = async (): Promise<Duplex> => {
    await connected(socket);
    if (address.kind !== 'tls' || credentials === undefined) return socket;
    return tlsClient(socket, { host: address.host, label, credentials });
  };
  try {
    return await withDeadline(make(), { what: label, timeoutMs: options.timeoutMs });
  } catch (error) {
    socket.destroy();
    throw unreachable(label, error);
  }
}

function connected(socket: net.Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
}

function unreachable(label: string, error: unknown): VmckptError {
  if (error instanceof VmckptError && error.code !== 'TIMEOUT') return error;
  const reason = errnoOf(error) ?? (error instanceof Error ? error.message : String(error));
  return new VmckptError('SOURCE_UNAVAILABLE', `${label} cannot be reached: ${reason}`, {
    hint: 'Is vmckpt serve running there?',
    cause: error,
  });
}
