import type { ErrorCode } from '../errors.js';

/** What keeps a VM from being saved. */
export interface SaveBlocker {
  readonly code: Extract<ErrorCode, 'MIGRATION_BLOCKED' | 'VM_BUSY'>;
  /** The part by name, and what is the matter with it. */
  readonly message: string;
  readonly hint: string;
}
