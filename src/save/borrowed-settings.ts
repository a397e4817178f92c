/**
 * The migration settings of a save, whatever somebody else has left: a capability changes the stream or how it ends,
 * and so do the parameters named here. All of them are borrowed (see putting-right.ts).
 */
import type { MigrationSettings } from '../qemu/migration-control.js';
import { HELD_PARAMETERS } from './held-migration.js';
import type { StreamMethod } from './methods.js';

/** The others are off, also those that a later QEMU may bring. */
const CAPABILITIES_ON: Record<StreamMethod, readonly string[]> = {
  'background-snapshot': ['background-snapshot', 'events'],
  stopped: ['dirty-bitmaps', 'events'],
  precopy: ['pause-before-switchover', 'events'],
};

/** QEMU's default for max-bandwidth is a low cap made for networks; this is no limit at all on any disk. */
export const UNLIMITED_BANDWIDTH = 2 ** 40;

const PARAMETERS: Readonly<Record<string, unknown>> = {
  'max-bandwidth': UNLIMITED_BANDWIDTH,
  // How little is left when pre-copy pauses the VM.
  'downtime-limit': 300,
  'avail-switchover-bandwidth': 0,
  // The stream goes to this process, in plain.
  'tls-creds': '',
  'tls-hostname': '',
  'tls-authz': '',
  // Some modes keep the VM stopped, or write elsewhere.
  mode: 'normal',
  'direct-io': false,
  'zero-page-detection': 'legacy',
};

/** @param current all that the VM's QEMU has. A capability that it lacks is asked for nevertheless: it then says so. */
export function borrowedSettings(method: StreamMethod, current: MigrationSettings): MigrationSettings {
  const names = [...Object.keys(current.capabilities), ...CAPABILITIES_ON[method]];
  const wished = { ...PARAMETERS, ...(method === 'stopped' && HELD_PARAMETERS) };
  return {
    capabilities: Object.fromEntries(names.map((name) => [name, CAPABILITIES_ON[method].includes(name)])),
    // What a QEMU does not tell it does not have, or nobody has set, and it could not be taken back.
    parameters: Object.fromEntries(Object.entries(wished).filter(([name]) => name in current.parameters)),
  };
}

/** What `wanted` will change, as it is: nothing else may be given back over what somebody sets meanwhile. */
export function changedBy(wanted: MigrationSettings, current: MigrationSettings): MigrationSettings {
  return {
    capabilities: changed(wanted.capabilities, current.capabilities),
    parameters: changed(wanted.parameters, current.parameters),
  };
}

function changed<T>(wanted: Readonly<Record<string, T>>, current: Readonly<Record<string, T>>) {
  return Object.fromEntries(
    Object.entries(current).filter(
      ([name, value]) => name in wanted && JSON.stringify(wanted[name]) !== JSON.stringify(value),
    ),
  );
}
