/** Who gets in by TLS, and what it may do then. */
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { AccessRules } from '../../../src/page-server/access.js';
import { makeCertificates } from '../../../src/page-server/make-certificates.js';
import { readCredentials } from '../../../src/page-server/tls.js';
import { certificates, runPageServer, type Certificates } from '../../support/page-servers.js';
import { format2Manifest } from '../../support/packs.js';
import { storeGeneration } from '../../support/stored.js';
import { until } from '../../support/until.js';
import { temporaryDir } from '../checkpoint/synthetic.js';

const caDir = mkdtempSync(path.join(tmpdir(), 'vmckpt-test-'));
let known: Certificates;
let storeDir: string;

beforeAll(async () => {
  known = await certificates(caDir, ['backup', 'web-host']);
});
afterAll(() => rmSync(caDir, { recursive: true }));

beforeEach(async () => {
  storeDir = path.join(temporaryDir(), 'store');
  for (const name of ['web', 'db']) await storeGeneration(storeDir, name);
});

describe('a page server with TLS', () => {
  it('serves clients of its CA', async () => {
    const { connect, server } = await runPageServer(storeDir, 'tls', { tlsDir: known.server });
    const store = connect({ tlsDir: known.clientDir('backup') });
    const { packs } = format2Manifest(path.join(storeDir, 'web', '1'));
    await store.open('web');
    const range = { packId: packs[0]!.id, offset: 0, length: 4096 };
    for (const lane of ['demand', 'rest'] as const)
      expect(await store.read(range, { lane })).toHaveLength(4096);
    expect(server.counters.acceptedConnections).toBe(2);
  });

  it('refuses clients of another CA, and is refused by them', async () => {
    const others = await certificates(temporaryDir(), ['backup']);
    const { connect } = await runPageServer(storeDir, 'tls', { tlsDir: known.server });
    const stranger = connect({ tlsDir: others.clientDir('backup') });
    await expect(stranger.list()).rejects.toMatchObject({ code: 'TLS_REFUSED' });
    const mixed = path.join(temporaryDir(), 'mixed');
    cpSync(others.clientDir('backup'), mixed, { recursive: true });
    copyFileSync(path.join(known.server, 'ca-cert.pem'), path.join(mixed, 'ca-cert.pem'));
    await expect(connect({ tlsDir: mixed }).list()).rejects.toMatchObject({ code: 'TLS_REFUSED' });
  });

  it('is refused when its certificate has another name', async () => {
    const dir = temporaryDir();
    await makeCertificates({ dir, servers: ['other.example'], clients: ['backup'], days: 1 });
    const { connect } = await runPageServer(storeDir, 'tls', { tlsDir: path.join(dir, 'other.example') });
    await expect(connect({ tlsDir: path.join(dir, 'backup') }).list()).rejects.toMatchObject({
      code: 'TLS_REFUSED',
      message: expect.stringContaining('another name') as string,
    });
  });

  it.each(['server', 'client'] as const)('notices that the certificate of a %s has expired', async (role) => {
    const name = role === 'server' ? '127.0.0.1' : 'late';
    const dir = expiredCertificates(role, name);
    const tlsDir = role === 'server' ? dir : known.server;
    const clientDir = role === 'client' ? dir : known.clientDir('backup');
    const { connect } = await runPageServer(storeDir, 'tls', { tlsDir });
    await expect(connect({ tlsDir: clientDir }).list()).rejects.toMatchObject({
      code: 'TLS_REFUSED',
      message: expect.stringMatching(/expired/i) as string,
    });
  });

  it('takes no key that other users may read', async () => {
    const { clientDir } = await certificates(temporaryDir(), ['backup']);
    chmodSync(path.join(clientDir('backup'), 'client-key.pem'), 0o644);
    const { connect } = await runPageServer(storeDir, 'tls', { tlsDir: known.server });
    const store = connect({ tlsDir: clientDir('backup') });
    await expect(store.list()).rejects.toMatchObject({ code: 'NOT_PERMITTED' });
  });

  it('shows a renewed certificate to the next client', async () => {
    const dir = temporaryDir();
    const order = { dir, servers: ['127.0.0.1'], clients: ['backup'], days: 1 };
    await makeCertificates(order);
    const tlsDir = path.join(dir, '127.0.0.1');
    const { server, connect } = await runPageServer(storeDir, 'tls', { tlsDir });
    await connect({ tlsDir: path.join(dir, 'backup') }).list();
    const { isNewCa } = await makeCertificates(order);
    expect(isNewCa).toBe(false);
    server.renewCredentials(readCredentials(tlsDir, 'server'));
    await connect({ tlsDir: path.join(dir, 'backup') }).list();
  });
});

describe('the access file', () => {
  it('says what a client may do', async () => {
    const rules = AccessRules.parse('web-host read web\nbackup read,push,remove *  # all\n', 'access');
    const { connect } = await runPageServer(storeDir, 'tls', { tlsDir: known.server, rules });
    const host = connect({ tlsDir: known.clientDir('web-host') });
    expect((await host.list()).map(({ name }) => name)).toEqual(['web']);
    await expect(host.open('db')).rejects.toMatchObject({ code: 'NOT_PERMITTED' });
    const packIds = ['web', 'db'].map((name) => format2Manifest(path.join(storeDir, name, '1')).packs[0]!.id);
    expect(await host.have(packIds)).toEqual(new Set([packIds[0]]));
    await expect(host.remove('web@1')).rejects.toMatchObject({ code: 'NOT_PERMITTED' });
    const generation = { name: 'web', number: 7, id: 'a'.repeat(32) };
    await expect(host.push(generation)).rejects.toMatchObject({ code: 'NOT_PERMITTED' });
    const opened = await host.open('web');
    await expect(opened.writeHint('working-set', Buffer.from('x'))).rejects.toMatchObject({
      code: 'NOT_PERMITTED',
    });
    await connect({ tlsDir: known.clientDir('backup') }).remove('db@1');
  });

  it('lets clients without one read, and no more', async () => {
    const { connect } = await runPageServer(storeDir, 'tls', { tlsDir: known.server });
    const store = connect({ tlsDir: known.clientDir('web-host') });
    expect(await store.list()).toHaveLength(2);
    await expect(store.remove('web@1')).rejects.toMatchObject({ code: 'NOT_PERMITTED' });
  });

  it('ends the connections of a client at once that is removed from it', async () => {
    const rules = AccessRules.parse('web-host read web\nbackup read *', 'access');
    const { server, connect } = await runPageServer(storeDir, 'tls', { tlsDir: known.server, rules });
    const [host, backup] = ['web-host', 'backup'].map((name) => connect({ tlsDir: known.clientDir(name) }));
    await host!.open('web');
    await backup!.open('web');
    server.changeRules(AccessRules.parse('backup read *', 'access'));
    const range = {
      offset: 0,
      length: 1,
      packId: format2Manifest(path.join(storeDir, 'web', '1')).packs[0]!.id,
    };
    await expect(host!.read(range, { lane: 'demand' })).rejects.toMatchObject({ code: 'SOURCE_UNAVAILABLE' });
    await expect(host!.list()).rejects.toMatchObject({ code: 'NOT_PERMITTED' });
    expect(await backup!.read(range, { lane: 'demand' })).toHaveLength(1);
    await until('one connection to remain', () => server.counters.connections === 1);
  });

  it('ends a connection whose open generation is no longer permitted', async () => {
    const rules = AccessRules.parse('web-host read web db', 'access');
    const { server, connect } = await runPageServer(storeDir, 'tls', { tlsDir: known.server, rules });
    const host = connect({ tlsDir: known.clientDir('web-host') });
    await host.open('web');
    server.changeRules(AccessRules.parse('web-host read db', 'access'));
    const listed = await until('another connection', () => host.list().catch(() => undefined));
    expect(listed.map(({ name }) => name)).toEqual(['db']);
  });

  it.each([
    ['web-host', 'line 1: "" is no right, expected read, push, remove'],
    ['# all\nweb-host write *', 'line 2: "write" is no right, expected read, push, remove'],
    ['web-host read', 'line 1: no checkpoints are named'],
    ['web-host read ../x', 'line 1: "../x" is no name of checkpoints'],
    ['(local) read *', 'line 1: "(local)" is no name of a client'],
  ])('refuses %j', (text, message) => {
    expect(() => AccessRules.parse(text, 'access')).toThrow(
      expect.objectContaining({ code: 'USAGE', message: `access, ${message}` }),
    );
  });
});

/** Of the CA that is known. @returns the folder with it */
function expiredCertificates(role: 'server' | 'client', name: string): string {
  const dir = temporaryDir();
  const [cert, key] = [path.join(dir, `${role}-cert.pem`), path.join(dir, `${role}-key.pem`)];
  copyFileSync(path.join(caDir, 'ca-cert.pem'), path.join(dir, 'ca-cert.pem'));
  const request = path.join(dir, 'request.pem');
  execFileSync(
    'openssl',
    [
      ...['req', '-new', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-noenc'],
      ...['-subj', `/CN=${name}`, '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', request],
    ],
    { stdio: 'ignore' },
  );
  execFileSync(
    'openssl',
    [
      ...['x509', '-req', '-in', request, '-CA', path.join(caDir, 'ca-cert.pem')],
      ...['-CAkey', path.join(caDir, 'ca-key.pem'), '-copy_extensions', 'copy', '-days', '-1', '-out', cert],
    ],
    { stdio: 'ignore' },
  );
  return dir;
}
