/** Which networks a command line connects the guest to. */
import { propertyOf, type Option } from './command-line.js';

export interface Network {
  /** `-netdev tap,…` */
  readonly option: string;
  /** Undefined: QEMU makes one up. */
  readonly id: string | undefined;
}

/** Those that it shares with others, who know it by its MAC address: all but QEMU's user mode, a network for each VM. */
export function sharedNetworks(options: readonly Option[]): Network[] {
  return options.flatMap((option) => {
    const { name, value = '' } = option;
    const type = ['netdev', 'nic', 'net'].includes(name) ? propertyOf(option, 'type') : undefined;
    if (type === undefined || ['user', 'none', 'nic', 'hubport'].includes(type)) return [];
    return [{ option: `-${name} ${value}`, id: propertyOf(option, 'id') }];
  });
}
