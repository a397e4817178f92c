import type { ErrorCode } from '../errors.js';

/** Something that prevents a VM from being saved. */
export interface SaveBlocker {
  readonly code: Extract<ErrorCode, 'MIGRATION_BLOCKED' | 'VM_BUSY'>;
  /** Names the part and its problem. */
  readonly message: string;
  readonly hint: string;
}
