/**
 * Advice about missing rights. It depends on the user: root is not told to become root. Root lacks a right only if it
 * has lost a capability, in a container, a service or a user namespace. The linter keeps such advice out of all other
 * files.
 */
import { readFileSync } from 'node:fs';

/** Numbers from capabilities(7). */
const CAPABILITIES = { CAP_SYS_PTRACE: 19n, CAP_SYS_ADMIN: 21n } as const;
export type Capability = keyof typeof CAPABILITIES;

export function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

/** For actions that need more than a user's rights: "Run QEMU as root". A sentence without its full stop. */
export function asRoot(act: string, capability: Capability): string {
  if (!isRoot()) return `${act} as root`;
  const lack = has(capability) ? '' : ', which root lacks in this container or namespace';
  return `${act} with ${capability}${lack}`;
}

function has(capability: Capability): boolean {
  const [, bits = '0'] = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1')) ?? [];
  return ((BigInt(`0x${bits}`) >> CAPABILITIES[capability]) & 1n) === 1n;
}

/** For what belongs to another user: "Run vmckpt as the user who started QEMU, or as root." */
export function asOwner(owner: string): string {
  return `Run vmckpt as ${owner}${isRoot() ? '' : ', or as root'}.`;
}
