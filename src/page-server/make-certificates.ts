/**
 * A CA, and certificates of it, to begin with. The program `openssl` makes them: Node.js cannot, and a library for something
 * that is done once a year would be loaded with every verb that has TLS.
 */
import { execFile } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';
import { DIRECTORY_MODE, errnoOf, writeFailure } from '../checkpoint/files.js';
import { VmckptError } from '../errors.js';
import { credentialFiles, type TlsRole } from './tls.js';

const run = promisify(execFile);

const CA_DAYS = 3650;
/** A name, or an IP address: also the name of a folder. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$/;
/** Without the system's defaults. */
const CONFIG = '[req]\ndistinguished_name = dn\n[dn]\n';

export interface CertificateOrder {
  /** The CA is in it, or is made there; it gets a folder for each name. */
  readonly dir: string;
  /** Host names, or IP addresses, as clients write them. */
  readonly servers: readonly string[];
  readonly clients: readonly string[];
  /** How long the certificates are valid. */
  readonly days: number;
}

export interface MadeCertificates {
  /** Whether the CA is a new one. */
  readonly isNewCa: boolean;
  /** For each name, to be copied to its host. */
  readonly folders: readonly string[];
}

/**
 * Certificates that are there are replaced; the CA is kept.
 * @throws VmckptError USAGE for a bad name, HOST_FILE_MISSING without openssl, STORE_NOT_WRITABLE, NO_SPACE, FAILED
 */
export async function makeCertificates(order: CertificateOrder): Promise<MadeCertificates> {
  const { dir, servers, clients, days } = order;
  for (const name of [...servers, ...clients]) requireName(name);
  try {
    mkdirSync(dir, { recursive: true, mode: DIRECTORY_MODE });
    const isNewCa = !existsSync(path.join(dir, 'ca-key.pem'));
    if (isNewCa) await makeCa(dir);
    for (const name of servers) await makeFor(dir, { name, role: 'server', days });
    for (const name of clients) await makeFor(dir, { name, role: 'client', days });
    const folders = [...new Set([...servers, ...clients])].map((name) => path.join(dir, name));
    return { isNewCa, folders };
  } catch (error) {
    throw writeFailure(error, dir);
  }
}

async function makeCa(dir: string): Promise<void> {
  await makeKeyPair(dir, {
    ...{ cert: path.join(dir, 'ca-cert.pem'), key: path.join(dir, 'ca-key.pem') },
    args: ['-days', String(CA_DAYS), '-subj', '/CN=vmckpt CA'],
    extensions: ['basicConstraints=critical,CA:TRUE,pathlen:0', 'keyUsage=critical,keyCertSign,cRLSign'],
  });
}

async function makeFor(
  dir: string,
  { name, role, days }: { readonly name: string; readonly role: TlsRole; readonly days: number },
): Promise<void> {
  const folder = path.join(dir, name);
  mkdirSync(folder, { recursive: true, mode: DIRECTORY_MODE });
  const { ca, cert, key } = credentialFiles(folder, role);
  const caCert = path.join(dir, 'ca-cert.pem');
  const subject = net.isIP(name) === 0 ? `DNS:${name}` : `IP:${name}`;
  await makeKeyPair(dir, {
    ...{ cert, key },
    args: [
      ...['-CA', caCert, '-CAkey', path.join(dir, 'ca-key.pem')],
      ...['-days', String(days), '-subj', `/CN=${name}`],
    ],
    extensions: [
      `subjectAltName=${subject}`,
      'basicConstraints=critical,CA:FALSE',
      'keyUsage=critical,digitalSignature',
      `extendedKeyUsage=${role === 'server' ? 'serverAuth' : 'clientAuth'}`,
    ],
  });
  copyFileSync(caCert, ca);
}

interface KeyPair {
  readonly cert: string;
  readonly key: string;
  readonly args: readonly string[];
  readonly extensions: readonly string[];
}

/** Both files appear when both are made. */
async function makeKeyPair(dir: string, { cert, key, args, extensions }: KeyPair): Promise<void> {
  const work = mkdtempSync(path.join(dir, '.new-'));
  const made = {
    cert: path.join(work, 'cert'),
    key: path.join(work, 'key'),
    config: path.join(work, 'config'),
  };
  try {
    writeFileSync(made.config, CONFIG);
    await run('openssl', [
      ...['req', '-x509', '-config', made.config, '-keyout', made.key, '-out', made.cert],
      ...['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-noenc', ...args],
      ...extensions.flatMap((extension) => ['-addext', extension]),
    ]);
    renameSync(made.key, key);
    renameSync(made.cert, cert);
  } catch (error) {
    throw failure(error);
  } finally {
    rmSync(work, { recursive: true });
  }
}

/** @throws VmckptError USAGE */
function requireName(name: string): void {
  if (NAME.test(name)) return;
  throw new VmckptError('USAGE', `${JSON.stringify(name)} cannot be the name in a certificate`, {
    hint: 'Names have 1 to 64 letters, digits, ".", "_", "-" and ":".',
  });
}

function failure(error: unknown): unknown {
  if (errnoOf(error) === 'ENOENT')
    return new VmckptError('HOST_FILE_MISSING', 'there is no program openssl', {
      hint: 'Install it (apt install openssl), or make the certificates elsewhere.',
      cause: error,
    });
  const { stderr } = error as { readonly stderr?: string };
  if (stderr === undefined) return error;
  return new VmckptError('FAILED', `openssl has failed: ${stderr.trim()}`, { cause: error });
}
