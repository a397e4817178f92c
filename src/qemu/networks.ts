/** The networks to which a command line connects the guest. */
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { propertyOf, type Option } from './command-line.js';
import { touchesOf } from './host-resources.js';
import type { Touch } from './host-visit.js';
import type { QmpClient } from './qmp.js';

export interface Network {
  /** `-netdev tap,…` */
  readonly option: string;
  /** Undefined: QEMU generates one. */
  readonly id: string | undefined;
}

/**
 * Networks that the VM shares with others, who know it by its MAC address: all except user mode, which is private to
 * a VM.
 */
export function sharedNetworks(options: readonly Option[]): Network[] {
  const isShared = (option: Option) => touchesOf(option).some((touch) => NETWORK_TOUCHES.has(touch));
  return options.filter(isShared).map((option) => ({
    option: `-${option.name} ${option.value ?? ''}`,
    id: propertyOf(option, 'id'),
  }));
}

const NETWORK_TOUCHES: ReadonlySet<Touch> = new Set(['network', 'enclosed']);

const RxFilters = v.array(v.object({ name: v.string(), 'main-mac': v.string() }));

/** The guest's MAC address in each network, by the network's id. */
export async function nicMacAddresses(qmp: QmpClient): Promise<Map<string, string>> {
  const text = await qmp.query(v.string(), 'human-monitor-command', { 'command-line': 'info network' });
  // A NIC, and below it the network: `net0: index=0,type=nic,…,macaddr=52:…` and ` \\ lan: index=0,type=tap,…`.
  const pairs = text.matchAll(/^(\S+): index=\d+,type=nic,.*macaddr=([0-9a-f:]{17}).*\r?\n \\ (\S+): /gim);
  // The guest may have changed it: virtio-net shows the current one.
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
  /** Networks that are shared with others. */
  readonly networks: readonly { readonly id?: string | undefined }[];
}

/**
 * Disconnects a clone from neighbours who would mistake it for the original. Called before its devices are loaded:
 * their state says that the link is up, so the guest does not notice.
 */
export async function isolate(qmp: QmpClient, { isClone, networks }: Isolation): Promise<void> {
  if (!isClone || networks.length === 0) return;
  // By default QEMU would announce the saved machine's address, for a second or more.
  await qmp.execute('migrate-set-parameters', { 'announce-rounds': 0 });
  for (const { id } of networks) await qmp.execute('set_link', { name: id, up: false });
}
