/** A real S3 engine: Ceph's object store, unpacked by fixtures/ceph.sh, in a folder of the test and in memory. */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';
import { cephFile } from './cache.js';
import { killAndWait, spawnTracked, type TrackedProcess } from './processes.js';
import { BACKSTOP_MS, until } from './until.js';

const LIBRARIES = ['lib/x86_64-linux-gnu', 'usr/lib/x86_64-linux-gnu', 'usr/lib/x86_64-linux-gnu/ceph'];
const ACCESS_KEY = 'test-access-key';
const SECRET_KEY = 'test-secret-key';

export interface ObjectGateway {
  readonly endpoint: string;
  /** What the AWS SDK takes from the environment. */
  readonly environment: Readonly<Record<string, string>>;
  close(): Promise<void>;
}

/** Starts the three processes that it takes; they die with this one. @param dir empty, with a short path */
export async function startObjectGateway(dir: string): Promise<ObjectGateway> {
  const [monitorPort, gatewayPort] = await Promise.all([freePort(), freePort()]);
  const ceph = new Ceph(dir, monitorPort);
  ceph.configure(gatewayPort);
  await ceph.makeMonitor();
  ceph.start('ceph-mon', '-i', 'a', '-f');
  await ceph.run('ceph-osd', '-i', '0', '--mkfs', '--no-mon-config');
  ceph.start('ceph-osd', '-i', '0', '-f');
  const keys = ['--access-key', ACCESS_KEY, '--secret-key', SECRET_KEY];
  await ceph.run('radosgw-admin', 'user', 'create', '--uid', 'test', '--display-name', 'test', ...keys);
  ceph.start('radosgw', '-n', 'client.rgw', '-f');
  const endpoint = `http://127.0.0.1:${gatewayPort}`;
  await until('the gateway to answer', async () => (await fetch(endpoint).catch(() => undefined))?.ok);
  return {
    endpoint,
    environment: {
      AWS_ENDPOINT_URL: endpoint,
      AWS_ACCESS_KEY_ID: ACCESS_KEY,
      AWS_SECRET_ACCESS_KEY: SECRET_KEY,
      AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED: 'true',
    },
    close: () => ceph.close(),
  };
}

class Ceph {
  readonly #dir: string;
  readonly #monitor: string;
  readonly #clusterId = randomUUID();
  readonly #started: TrackedProcess[] = [];

  constructor(dir: string, monitorPort: number) {
    this.#dir = dir;
    this.#monitor = `v1:127.0.0.1:${monitorPort}`;
  }

  configure(gatewayPort: number): void {
    const dir = this.#dir;
    for (const folder of ['mon', 'osd', 'run', 'log']) mkdirSync(path.join(dir, folder), { recursive: true });
    const libraries = cephFile('usr/lib/x86_64-linux-gnu');
    const settings = {
      fsid: this.#clusterId,
      'mon host': this.#monitor,
      'public addr': '127.0.0.1',
      'auth cluster required': 'none',
      'auth service required': 'none',
      'auth client required': 'none',
      // One copy of everything, in memory.
      'osd objectstore': 'memstore',
      'memstore device bytes': 4 * 2 ** 30,
      'osd pool default size': 1,
      'osd pool default min size': 1,
      'osd pool default pg num': 1,
      'osd pool default pgp num': 1,
      'osd pool default pg autoscale mode': 'off',
      'osd crush chooseleaf type': 0,
      'mon allow pool size one': true,
      // The map has them; asked at once after its start, the monitor may leave the question without an answer.
      'osd crush update on start': false,
      'osd class update on start': false,
      // Otherwise each of the gateway's pools takes a second.
      'paxos propose interval': 0.05,
      'paxos min wait': 0.02,
      'mon data avail crit': 1,
      'osd class dir': `${libraries}/rados-classes`,
      'osd class load list': '*',
      'osd class default list': '*',
      'plugin dir': `${libraries}/ceph`,
      'erasure code dir': `${libraries}/ceph/erasure-code`,
      'run dir': `${dir}/run`,
      'admin socket': `${dir}/run/$name.asok`,
      'log file': `${dir}/log/$name.log`,
      'pid file': '',
      'crash dir': dir,
      'mon data': `${dir}/mon`,
      'osd data': `${dir}/osd`,
      'rgw data': dir,
      'rgw frontends': `beast endpoint=127.0.0.1:${gatewayPort}`,
    };
    const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}\n`);
    writeFileSync(path.join(dir, 'ceph.conf'), `[global]\n${lines.join('')}`);
  }

  /** With a map that has the one store of objects already, so that it needs not be made known. */
  async makeMonitor(): Promise<void> {
    const [monitors, stores] = [path.join(this.#dir, 'monmap'), path.join(this.#dir, 'osdmap')];
    await this.run(
      'monmaptool',
      '--create',
      '--add',
      'a',
      this.#monitor,
      '--fsid',
      this.#clusterId,
      monitors,
    );
    await this.run('osdmaptool', stores, '--createsimple', '1');
    await this.run('ceph-mon', '-i', 'a', '--mkfs', '--monmap', monitors, '--osdmap', stores);
  }

  start(program: string, ...args: string[]): void {
    this.#started.push(spawnTracked(this.#command(program, args), path.join(this.#dir, `${program}.log`)));
  }

  async run(program: string, ...args: string[]): Promise<void> {
    const command = ['--pdeathsig', 'KILL', '--', ...this.#command(program, args)];
    await promisify(execFile)('setpriv', command, { timeout: BACKSTOP_MS });
  }

  async close(): Promise<void> {
    for (const { pid } of this.#started.reverse()) await killAndWait(pid);
  }

  #command(program: string, args: readonly string[]): string[] {
    const libraries = LIBRARIES.map((folder) => cephFile(folder)).join(':');
    const configuration = ['-c', path.join(this.#dir, 'ceph.conf')];
    return ['env', `LD_LIBRARY_PATH=${libraries}`, cephFile(`bin/${program}`), ...configuration, ...args];
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().on('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}
