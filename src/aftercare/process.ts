/** The aftercare process. Its arguments are the socket of QEMU's monitor and the order, as JSON. */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { GuestAgent } from '../qemu/guest-agent.js';
import { nicMacAddresses } from '../qemu/networks.js';
import { QmpClient } from '../qemu/qmp.js';
import { VmckptError } from '../errors.js';
import { debug, elided } from '../util/debug.js';
import { parse } from '../util/schema.js';
import { aftercareSchema, type Aftercare } from './order.js';

const MONITOR_TIMEOUT_MS = 60_000;
const AGENT_TIMEOUT_MS = 30_000;
/** By then, frames that the guest made under its old address have been sent, and dropped. */
const DRAIN_MS = 300;
/** The same values as QEMU uses after a migration. */
const ANNOUNCEMENT = { initial: 50, max: 550, rounds: 5, step: 100 };

const log = pino({ base: { pid: process.pid } });

async function careFor(monitorSocket: string, { isClone, agentSocket, networks }: Aftercare): Promise<void> {
  if (networks.length > 0 && !isClone) await withMonitor(monitorSocket, announce);
  if (agentSocket === undefined) return;
  const agent = await GuestAgent.connect(agentSocket, { timeoutMs: AGENT_TIMEOUT_MS });
  try {
    await attempt('the guest has the time', () => agent.setTime(Date.now()));
    if (!isClone) return;
    for (const { id } of networks)
      await attempt(`the guest has a MAC address of its own in the network ${id}`, () =>
        withMonitor(monitorSocket, (qmp) => joinAnew(qmp, agent, id!)),
      );
  } finally {
    agent.close();
  }
}

async function announce(qmp: QmpClient): Promise<void> {
  await qmp.execute('announce-self', ANNOUNCEMENT);
}

/**
 * For the guest the link was up all the time, and what it sent was dropped. (With the link down, Linux keeps frames and
 * would send them under the old address later.) Only afterwards does the guest see the link go down and up, so that its
 * network configuration requests a new lease.
 */
async function joinAnew(qmp: QmpClient, agent: GuestAgent, networkId: string): Promise<void> {
  const before = (await nicMacAddresses(qmp)).get(networkId);
  const having = async () => (await agent.interfaces()).filter(({ macAddress }) => macAddress === before);
  const interfaces = await having();
  if (interfaces.length === 0)
    throw new VmckptError('AGENT_REFUSED', `the guest has no interface with the MAC address ${before}`);
  // A VLAN or a bridge on top of the card may have the same address, and would keep sending under it.
  const address = randomMacAddress();
  for (const { name } of interfaces) await changeMacAddress(agent, name, address);
  await sleep(DRAIN_MS);
  const [still] = await having();
  if (still !== undefined)
    throw new VmckptError('AGENT_REFUSED', `the interface ${still.name} still has the MAC address ${before}`);
  for (const up of [true, false, true]) await qmp.execute('set_link', { name: networkId, up });
}

async function changeMacAddress(agent: GuestAgent, name: string, address: string): Promise<void> {
  const set = (...words: string[]) => agent.run('ip', ['link', 'set', 'dev', name, ...words]);
  if ((await set('address', address)).exitCode === 0) return;
  // Not every driver can change the address while the interface is up.
  await set('down');
  const { exitCode, errorOutput } = await set('address', address);
  await set('up');
  if (exitCode !== 0)
    throw new VmckptError('AGENT_REFUSED', `ip link set dev ${name} address: ${errorOutput.trim()}`);
}

/** A unicast, locally administered address. */
function randomMacAddress(): string {
  const bytes = randomBytes(6);
  bytes[0] = (bytes[0]! & 0xfc) | 0x02;
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

async function withMonitor(path: string, action: (qmp: QmpClient) => Promise<void>): Promise<void> {
  const qmp = await QmpClient.connect({ path, timeoutMs: MONITOR_TIMEOUT_MS });
  try {
    await action(qmp);
  } finally {
    await qmp.close();
  }
}

/** If one action fails, the others are still done. */
async function attempt(done: string, action: () => Promise<void>): Promise<void> {
  try {
    await action();
    log.info(done);
  } catch (err) {
    log.error({ err }, `this failed: ${done}`);
  }
}

const [monitorSocket = '', order = ''] = process.argv.slice(2);
const care = parse(aftercareSchema, JSON.parse(order));
debug('aftercare', () => `begins: ${elided(care)}`);
try {
  await careFor(monitorSocket, care);
} catch (err) {
  log.error({ err }, 'the aftercare failed: the guest is as it was restored');
}
debug('aftercare', () => 'ends');
process.exit();
