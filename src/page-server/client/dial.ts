/** Connects to an address: the byte stream of a connection, before hello. */
import net from 'node:net';
import type { Duplex } from 'node:stream';
import { errnoOf } from '../../checkpoint/files.js';
import { VmckptError } from '../../errors.js';
import { formatAddress, isLoopback, type Address } from '../address.js';

export interface DialOptions {
  /** Plain TCP to other hosts, too: whoever is on the way reads and changes memory. */
  readonly insecurePlaintext?: boolean;
  readonly timeoutMs: number;
}

/** @throws VmckptError SOURCE_UNAVAILABLE; USAGE for plain TCP to another host */
export async function dial(address: Address, options: DialOptions): Promise<Duplex> {
  requireSafe(address, options);
  const label = formatAddress(address);
  const socket =
    address.kind === 'unix'
      ? net.connect({ path: address.path })
      : net.connect({ host: address.host, port: address.port, noDelay: true });
  try {
    await connected(socket, { label, timeoutMs: options.timeoutMs });
    return socket;
  } catch (error) {
    socket.destroy();
    throw unreachable(label, error);
  }
}

/** @throws VmckptError USAGE */
export function requireSafe(address: Address, { insecurePlaintext = false }: Partial<DialOptions>): void {
  if (address.kind !== 'tcp' || insecurePlaintext || isLoopback(address.host)) return;
  throw new VmckptError('USAGE', `${formatAddress(address)} is plain TCP to another host`, {
    hint: 'Memory holds secrets: use tls://, or --insecure-plaintext in a network that only you use.',
  });
}

function connected(
  socket: net.Socket,
  { label, timeoutMs }: { readonly label: string; readonly timeoutMs: number },
): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(new VmckptError('SOURCE_UNAVAILABLE', `${label}: no connection within ${timeoutMs} ms`));
    }, timeoutMs);
    const settle = (act: () => void) => () => {
      clearTimeout(timer);
      act();
    };
    socket.once('connect', settle(resolve));
    socket.once('error', (error) => settle(() => reject(error))());
  });
}

function unreachable(label: string, error: unknown): VmckptError {
  if (error instanceof VmckptError) return error;
  const reason = errnoOf(error) ?? String(error);
  return new VmckptError('SOURCE_UNAVAILABLE', `${label} cannot be reached: ${reason}`, {
    hint: 'Is vmckpt serve running there?',
    cause: error,
  });
}
