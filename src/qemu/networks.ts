/** Which networks a command line connects the guest to. */
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { propertyOf, type Option } from './command-line.js';
import { touchesOf } from './host-resources.js';
import type { Touch } from './host-visit.js';
import type { QmpClient } from './qmp.js';

export interface Network {
  /** `-netdev tap,…` */
  readonly option: string;
  /** Undefined: QEMU makes one up. */
  readonly id: string | undefined;
}

/** Those that it shares with others, who know it by its MAC address: all but QEMU's user mode, a network for each VM. */
export function sharedNetworks(options: readonly Option[]): Network[] {
  const isShared = (option: Option) => touchesOf(option).some((touch) => NETWORK_TOUCHES.has(touch));
  return options.filter(isShared).map((option) => ({
    option: `-${option.name} ${option.value ?? ''}`,
    id: propertyOf(option, 'id'),
  }));
}

const NETWORK_TOUCHES: ReadonlySet<Touch> = new Set(['network', 'enclosed']);

const RxFilters = v.array(v.object({ name: v.string(), 'main-mac': v.string() }));

/** The MAC address that the guest has in each network, by the network's id. */
export async function nicMacAddresses(qmp: QmpClient): Promise<Map<string, string>> {
  const text = await qmp.query(v.string(), 'human-monitor-command', { 'command-line': 'info network' });
  // A NIC, and below it the network: `net0: index=0,type=nic,…,macaddr=52:…` and ` \\ lan: index=0,type=tap,…`.
  const pairs = text.matchAll(/^(\S+): index=\d+,type=nic,.*macaddr=([0-9a-f:]{17}).*\r?\n \\ (\S+): /gim);
  // A guest may have changed it: virtio-net tells.
  const current = await qmp.query(RxFilters, 'query-rx-filter').catch((error: unknown) => {
    if (!(error instanceof VmckptError) || error.code !== 'QMP_COMMAND_FAILED') throw error;
    return [];
  });
  const changed = new Map(current.map(({ name, 'main-mac': mac }) => [name, mac]));
  return new Map(
    Array.from(pairs, ([, nic, mac, network]) => [network!, (changed.get(nic!) ?? mac!).toLowerCase()]),
  );
}

export interface Isolation {
  readonly isClone: boolean;
  /** Those that are shared with others. */
  readonly networks: readonly { readonly id?: string | undefined }[];
}

/**
 * Cuts a clone off from its neighbours, to whom it is still somebody else. To be called before its devices are loaded:
 * their state says that the link is there, so the guest sees nothing of it.
 */
export async function isolate(qmp: QmpClient, { isClone, networks }: Isolation): Promise<void> {
  if (!isClone || networks.length === 0) return;
  // Of itself QEMU would announce the address that the machine was saved with, for a second or more.
  await qmp.execute('migrate-set-parameters', { 'announce-rounds': 0 });
  for (const { id } of networks) await qmp.execute('set_link', { name: id, up: false });
}
