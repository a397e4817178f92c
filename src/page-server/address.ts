/** Addresses of stores elsewhere: of page servers (`tls://HOST:PORT`, `tcp://HOST:PORT`, `unix:PATH`), and in buckets. */
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { formatBucketAddress, isBucketAddress, parseBucketAddress } from './s3/address.js';

export type Address =
  | { readonly kind: 'tls' | 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

const NETWORK = /^(tls|tcp):\/\/(\[[0-9A-Fa-f:.]+\]|[^/:[\]]+):(\d{1,5})$/;
const UNIX = 'unix:';
const SCHEME = /^(tls:|tcp:|unix:|s3:)/;

/** Whether a text names a store elsewhere, or a folder. */
export function isAddress(text: string): boolean {
  return SCHEME.test(text);
}

/** @throws VmckptError USAGE */
export function parseAddress(text: string): Address {
  const [, kind, host, port] = NETWORK.exec(text) ?? [];
  if (kind !== undefined && Number(port) <= 65535)
    return { kind: kind as 'tls' | 'tcp', host: host!.replace(/^\[|\]$/g, ''), port: Number(port) };
  if (text.startsWith(UNIX) && text.length > UNIX.length)
    return { kind: 'unix', path: path.resolve(text.slice(UNIX.length)) };
  throw new VmckptError('USAGE', `"${text}" is no address of a page server`, {
    hint: 'For example tls://host:7070, tcp://127.0.0.1:7070, or unix:/run/vmckpt/store.sock; s3://bucket/prefix for a bucket.',
  });
}

/** @param text addresses with commas between them. @returns each in its one form. @throws VmckptError USAGE */
export function parseAddresses(text: string): string[] {
  return text.split(',').map((address) => canonical(address.trim()));
}

function canonical(address: string): string {
  return isBucketAddress(address)
    ? formatBucketAddress(parseBucketAddress(address))
    : formatAddress(parseAddress(address));
}

export function formatAddress(address: Address): string {
  if (address.kind === 'unix') return `${UNIX}${address.path}`;
  const { kind, host, port } = address;
  return `${kind}://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** Whether what is sent to this host stays on this one. */
function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);
}

/**
 * Plain TCP is for this host alone.
 * @throws VmckptError USAGE
 */
export function requireSafe(address: Address, insecurePlaintext = false): void {
  if (address.kind !== 'tcp' || insecurePlaintext || isLoopback(address.host)) return;
  throw new VmckptError('USAGE', `${formatAddress(address)} is plain TCP beyond this host`, {
    hint: 'Memory holds secrets: use tls://, or --insecure-plaintext in a network that only you use.',
  });
}
