/** TLS 1.3 between page servers and clients, each with a certificate of the same CA. The files have QEMU's names. */
import { readFileSync, statSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import type * as Tls from 'node:tls';
import { errnoOf } from '../checkpoint/files.js';
import { VmckptError } from '../errors.js';
import { homeDir } from '../util/user-folders.js';

/** Of keys: other users. */
const OTHERS = 0o007;
const HANDSHAKE_MS = 10_000;

export type TlsRole = 'server' | 'client';

/** PEM. */
export interface Credentials {
  readonly ca: Buffer;
  readonly cert: Buffer;
  readonly key: Buffer;
}

/** `$XDG_CONFIG_HOME/vmckpt/tls`, otherwise `~/.config/vmckpt/tls`. */
export function defaultTlsDir(): string {
  const { XDG_CONFIG_HOME: config = '' } = process.env;
  return path.join(path.isAbsolute(config) ? config : path.join(homeDir(), '.config'), 'vmckpt', 'tls');
}

export function credentialFiles(dir: string, role: TlsRole): Record<keyof Credentials, string> {
  return {
    ca: path.join(dir, 'ca-cert.pem'),
    cert: path.join(dir, `${role}-cert.pem`),
    key: path.join(dir, `${role}-key.pem`),
  };
}

/** @throws VmckptError HOST_FILE_MISSING, NOT_PERMITTED for a key that others may read */
export function readCredentials(dir: string, role: TlsRole): Credentials {
  const { ca, cert, key } = credentialFiles(dir, role);
  const found = { ca: readPem(ca), cert: readPem(cert), key: readPem(key) };
  if ((statSync(key).mode & OTHERS) === 0) return found;
  throw new VmckptError('NOT_PERMITTED', `${key} may be read by other users`, {
    hint: `Protect it: chmod 600 ${key}`,
  });
}

/**
 * Makes connections secure. Whom they are with is found out by requireCertificate() and not by Node.js, which would close a
 * connection without a word.
 */
export function tlsServer(credentials: Credentials): Tls.Server {
  return tls().createServer({
    ...serverContext(credentials),
    requestCert: true,
    rejectUnauthorized: false,
    handshakeTimeout: HANDSHAKE_MS,
  });
}

/** What is replaced when certificates are renewed. */
export function serverContext({ ca, cert, key }: Credentials): Tls.SecureContextOptions {
  return { ca: [ca], cert, key, minVersion: 'TLSv1.3' };
}

/**
 * The name in the client's certificate.
 * @throws VmckptError TLS_REFUSED without a valid certificate of the CA, or with several names in it
 */
export function requireCertificate(socket: Tls.TLSSocket): string {
  const { subject } = socket.getPeerCertificate() as Partial<Tls.PeerCertificate>;
  const name: unknown = subject?.CN;
  if (!socket.authorized)
    throw refused(`the client's certificate is refused: ${String(socket.authorizationError)}`);
  if (typeof name === 'string') return name;
  throw refused("the client's certificate has no name, or several");
}

function refused(message: string, cause?: unknown): VmckptError {
  return new VmckptError('TLS_REFUSED', message, {
    hint: 'Both sides need certificates of the same CA: see vmckpt help tls.',
    cause,
  });
}

/** The handshake on a socket that is connected, as a client. @throws VmckptError TLS_REFUSED, SOURCE_UNAVAILABLE */
export async function tlsClient(
  socket: net.Socket,
  { host, label, credentials: { ca, cert, key } }: TlsClientOptions,
): Promise<Tls.TLSSocket> {
  const secured = tls().connect({
    ...{ socket, cert, key, ca: [ca], minVersion: 'TLSv1.3' },
    ...(net.isIP(host) === 0 ? { servername: host } : {}),
    checkServerIdentity: (_servername, certificate) => tls().checkServerIdentity(host, certificate),
  });
  try {
    await new Promise<void>((resolve, reject) => {
      secured.once('secureConnect', resolve);
      secured.once('error', reject);
      secured.once('close', () => reject(new Error('the connection was closed')));
    });
    return secured;
  } catch (error) {
    secured.destroy();
    throw tlsFailure(label, error) ?? unavailable(label, error);
  }
}

export interface TlsClientOptions {
  /** As the server's certificate has to name it. */
  readonly host: string;
  /** The server's address. */
  readonly label: string;
  readonly credentials: Credentials;
}

/** Undefined for an error that is not about certificates. */
export function tlsFailure(label: string, error: unknown): VmckptError | undefined {
  const code = errnoOf(error) ?? '';
  const reason = REASONS.find(([pattern]) => pattern.test(code))?.[1];
  if (reason === undefined) return undefined;
  return refused(`${label}: ${reason} (${code})`, error);
}

/** Node's codes, and what they say. */
const REASONS: readonly (readonly [code: RegExp, reason: string])[] = [
  [/^CERT_HAS_EXPIRED$/, "the server's certificate has expired"],
  [/^CERT_NOT_YET_VALID$/, "the server's certificate is not valid yet"],
  [/^ERR_TLS_CERT_ALTNAME_INVALID$/, "the server's certificate is for another name"],
  [/SELF_SIGNED|UNABLE_TO_|CERT_/, "the server's certificate is not of this CA"],
  [/^ERR_SSL_.*ALERT/, "the server refuses the client's certificate"],
  [/^ERR_SSL_/, 'no TLS 1.3'],
];

function unavailable(label: string, error: unknown): VmckptError {
  const reason = error instanceof Error ? error.message : String(error);
  return new VmckptError('SOURCE_UNAVAILABLE', `${label}: the TLS handshake has failed: ${reason}`, {
    cause: error,
  });
}

function readPem(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (cause) {
    throw new VmckptError('HOST_FILE_MISSING', `${file} cannot be read: ${errnoOf(cause) ?? String(cause)}`, {
      hint: 'vmckpt tls init makes certificates; --tls-dir says where they are.',
      cause,
    });
  }
}

/** node:tls, loaded on first use: a restore without a network does not need it. */
function tls(): typeof Tls {
  return process.getBuiltinModule('node:tls');
}
