/**
 * The value that a command line gives to a setting, if that is known: the text that a freshly started QEMU would
 * show.
 */
import { propertiesOf, propertyOf, type Option } from '../command-line.js';
import { DEVICE_SETTINGS, throttleText, type Setting } from './settings.js';

/** @returns undefined when the command line does not determine it */
export function expectedValue(setting: Setting, options: readonly Option[]): string | undefined {
  switch (setting.kind) {
    case 'throttle':
      return throttleOf(setting, options);
    case 'threshold':
      return '0';
    case 'device':
      return deviceSetting(setting, options);
    case 'trace':
      return traces(setting.id, options);
    default:
      return undefined;
  }
}

/** The older names that `-drive` accepts. */
const OLD_LIMIT = /^(bps|iops)(_rd|_wr)?(_max)?(_max_length)?$|^iops_size$/;
const GROUP = /^(throttling\.)?group$/;

function throttleOf({ id, name }: Setting, options: readonly Option[]): string | undefined {
  // A node is throttled by a filter, or not at all.
  if (name === 'qdev') return '{}';
  const drives = options.filter((option) => option.name === 'drive');
  const drive = drives.find((option) => propertyOf(option, 'id') === id);
  if (drive === undefined) return drives.some(isThrottled) ? undefined : '{}';
  const limits = propertiesOf(drive).flatMap(({ key, value }) => {
    const limit = key.startsWith('throttling.') ? oldName(key.slice('throttling.'.length)) : key;
    const isDefault = Number(value) === (limit.endsWith('_length') ? 1 : 0);
    return OLD_LIMIT.test(limit) && !isDefault ? [[limit, Number(value)] as const] : [];
  });
  const group = propertiesOf(drive).findLast(({ key }) => GROUP.test(key))?.value ?? id;
  return throttleText(Object.fromEntries(limits.sort(([a], [b]) => (a < b ? -1 : 1))), group);
}

function isThrottled(drive: Option): boolean {
  return propertiesOf(drive).some(({ key }) => key.startsWith('throttling.') || OLD_LIMIT.test(key));
}

/** `bps-read-max-length`: `bps_rd_max_length`. */
function oldName(name: string): string {
  return name.replace('-total', '').replace('-read', '_rd').replace('-write', '_wr').replaceAll('-', '_');
}

function deviceSetting({ id, name }: Setting, options: readonly Option[]): string | undefined {
  const initial = String(DEVICE_SETTINGS[name]);
  const own = /^peripheral\/(.*)$/.exec(id)?.[1];
  const devices = options.filter((option) => option.name === 'device');
  if (options.some((option) => option.name === 'set')) return undefined;
  const device = own === undefined ? undefined : devices.find((option) => propertyOf(option, 'id') === own);
  if (device !== undefined) return propertyOf(device, name) ?? initial;
  return devices.some((option) => propertyOf(option, name) !== undefined) ? undefined : initial;
}

/** Patterns of `-trace` and of `-d trace:`. Files of patterns are not read. */
function traces(event: string, options: readonly Option[]): string | undefined {
  if (options.some((option) => option.name === 'trace' && propertyOf(option, 'events') !== undefined))
    return undefined;
  const patterns = options.flatMap((option) => {
    if (option.name === 'd')
      return (option.value ?? '').split(',').flatMap((item) => /^trace:(.*)$/.exec(item)?.[1] ?? []);
    return option.name === 'trace' ? (propertyOf(option, 'enable') ?? []) : [];
  });
  return String(patterns.some((pattern) => matches(pattern, event)));
}

function matches(pattern: string, event: string): boolean {
  const parts = pattern.split('*').map((part) => part.replaceAll(/[^\w]/g, '\\$&'));
  return new RegExp(`^${parts.join('.*')}$`).test(event);
}
