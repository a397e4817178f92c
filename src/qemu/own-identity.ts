/**
 * Changes the command line of a restored VM so that it disturbs no other. A VM that replaces the original keeps
 * everything. A clone runs next to the original and other clones, and gets its own place for everything that two
 * QEMUs cannot share. A trial already has its own ports, and must not reach out of its network.
 */
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { parseCommandLine, toArgv, type Option } from './command-line.js';
import { freePort, freeVsockId } from './free-places.js';
import { agentSocketOf } from './guest-agent.js';
import { touchesOf } from './host-resources.js';
import type { PortAddress, Touch } from './host-visit.js';
import { sharedNetworks } from './networks.js';
import { discardWrites, type OwnDisks } from './own-disks.js';
import { relocate, type Moved, type Places } from './relocation.js';

/**
 * `original`: replaces the saved VM. `clone`: runs next to it. `trial`: runs next to it, in its own network
 * namespace.
 */
export type Identity = 'original' | 'clone' | 'trial';

export interface OwnIdentityOptions {
  readonly identity: Identity;
  /** The folder of the VM's sockets. What is in it belongs to the VM already. */
  readonly directory: string;
}

export interface OwnIdentity {
  readonly args: readonly string[];
  readonly moved: readonly Moved[];
  /** Images with a temporary overlay for what the VM writes. */
  readonly overlaid: readonly string[];
}

/** In a VM's folder: what was moved there from other places of the command line. */
export const OWN_FOLDER = 'own';
/** Size of sun_path, without its terminating zero. */
export const MAX_SOCKET_PATH_BYTES = 107;
/** Room for a number after a name. */
const COUNT_BYTES = 5;
/** Where an earlier restore has moved something, if the saved VM was itself a clone. */
const EARLIER_OWN = /\/(vms|s)\/[^/]+\/own\/[^/]+$/;

/**
 * @throws VmckptError DISKS_WRITABLE, COMMAND_LINE_UNSUPPORTED naming what a clone cannot share, COLLISION when no
 * port is free
 */
export async function giveIdentity(
  args: readonly string[],
  { identity, directory }: OwnIdentityOptions,
): Promise<OwnIdentity> {
  const options = parseCommandLine(args);
  const file = ownFiles(directory);
  if (identity === 'original') {
    const ofClone = (from: string) => (EARLIER_OWN.test(from) ? file(from) : from);
    const { options: kept, moved } = relocate(options, { ...STAY, file: ofClone });
    return { args: toArgv(kept), moved, overlaid: [] };
  }
  const disks = discardWrites(options);
  refuseShared(disks, identity);
  const elsewhere =
    identity === 'clone' ? { port: await freePorts(disks.options), vsockId: freeVsockId } : undefined;
  const { options: own, moved } = relocate(disks.options, { ...STAY, ...elsewhere, file });
  return { args: toArgv(own), moved, overlaid: disks.overlaid };
}

const STAY: Places = { file: (from) => from, port: ({ port }) => port, vsockId: (id) => id };

/** Files keep their names if those differ, as far as the length of a socket's path allows. */
function ownFiles(directory: string): (from: string) => string {
  const taken = new Map<string, string>();
  const roomBytes = MAX_SOCKET_PATH_BYTES - Buffer.byteLength(path.join(directory, OWN_FOLDER)) - COUNT_BYTES;
  return (from) => {
    if (path.dirname(from) === directory) return from;
    const { name: whole, ext } = path.parse(from);
    const name = whole.slice(0, Math.max(1, roomBytes - ext.length));
    for (let count = 1; ; count++) {
      const to = path.join(directory, OWN_FOLDER, `${name}${count === 1 ? '' : `-${count}`}${ext}`);
      if ((taken.get(to) ?? from) !== from) continue;
      taken.set(to, from);
      return to;
    }
  };
}

/** Replaces the ports of a command line by free ones, address by address. */
async function freePorts(options: readonly Option[]): Promise<(address: PortAddress) => number> {
  const wanted = new Map<string, PortAddress>();
  const note = (address: PortAddress) => {
    wanted.set(JSON.stringify(address), address);
    return address.port;
  };
  relocate(options, { ...STAY, port: note });
  const found = new Map<string, number>();
  for (const [key, address] of wanted) found.set(key, await freePort(address));
  return (address) => found.get(JSON.stringify(address))!;
}

interface Shared {
  readonly what: string;
  readonly hint: string;
}

/** The ways in which an option may not touch the host when the VM is not alone (see the table in host-resources.ts). */
const REFUSED: Readonly<Record<Exclude<Identity, 'original'>, readonly Touch[]>> = {
  clone: ['single', 'unknown'],
  trial: ['single', 'unknown', 'shared', 'network'],
};

/** Refuses what two VMs cannot share, what cannot exist twice, and what would let a trial reach others. */
function refuseShared({ options, refused }: OwnDisks, identity: Exclude<Identity, 'original'>): void {
  const isTrial = identity === 'trial';
  const disks = refused.map((what) => ({ what: `${what} (a writable disk)`, hint: DISK_HINT }));
  const parts = options.flatMap((option) => refusedPart(option, identity));
  const unreachable = isTrial ? [] : unknownOnNetworks(options);
  const [first, ...others] = [...disks, ...parts, ...unreachable];
  if (first === undefined) return;
  const names = [first, ...others].map(({ what }) => what).join('; ');
  throw new VmckptError(
    disks.length > 0 ? 'DISKS_WRITABLE' : 'COMMAND_LINE_UNSUPPORTED',
    `${isTrial ? 'a VM that learns' : 'a clone'} cannot share ${names}`,
    { hint: isTrial ? TRIAL_HINT : first.hint },
  );
}

const OWN_COMMAND_LINE = 'vmckpt restore NAME --as VMNAME -- QEMU ARGS…';
const DISK_HINT = `Attach it read-only, or as -drive, which gets a temporary overlay: ${OWN_COMMAND_LINE}`;
const PART_HINT = `Give the clone a command line that does without it: ${OWN_COMMAND_LINE}`;
const NETWORK_HINT =
  'Only a guest agent can change the MAC address: give the VM a virtserialport named org.qemu.guest_agent.0, and its network an id=, before it is saved. Or use -netdev user.';
const TRIAL_HINT = 'Learn from ordinary restores instead: each one teaches.';

function refusedPart(option: Option, identity: Exclude<Identity, 'original'>): Shared[] {
  const touches = touchesOf(option).filter((touch) => REFUSED[identity].includes(touch));
  if (touches.length === 0) return [];
  const [first, ...others] = touches;
  const reason =
    first === 'unknown' && others.length === 0 ? ' (vmckpt does not know what of the host it takes)' : '';
  return [{ what: `${`-${option.name} ${option.value ?? ''}`.trim()}${reason}`, hint: PART_HINT }];
}

/** The guest keeps its MAC address. On a network where others see it, only the guest can change it. */
function unknownOnNetworks(options: readonly Option[]): Shared[] {
  const hasAgent = agentSocketOf(toArgv(options)) !== undefined;
  return sharedNetworks(options)
    .filter(({ id }) => !hasAgent || id === undefined)
    .map(({ option }) => ({
      what: `${option} (a network on which its MAC address exists)`,
      hint: NETWORK_HINT,
    }));
}
