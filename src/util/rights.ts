/**
 * Advice about missing rights, phrased by who asks: nobody tells root to become root. Root lacks a right only where it has
 * lost a capability, in a container, a service or a user namespace. The linter keeps such advice out of all other files.
 */
export type Capability = 'CAP_SYS_PTRACE' | 'CAP_SYS_ADMIN';

export function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

/** For what takes more than a user's rights: "Run QEMU as root". A sentence without its end. */
export function asRoot(act: string, capability: Capability): string {
  return isRoot()
    ? `${act} with ${capability}, which root lacks in this container or namespace`
    : `${act} as root`;
}

/** For what belongs to another user: "Run vmckpt as the user who started QEMU, or as root." */
export function asOwner(owner: string): string {
  return `Run vmckpt as ${owner}${isRoot() ? '' : ', or as root'}.`;
}
