/** What the verb and the transfer process say to each other: lines of JSON on a socket of their own. */
import type { TransferCounters } from './counters.js';

/** Of one message. */
export const MAX_MESSAGE_BYTES = 16 << 20;
/** Transfer → verb. */
export type TransferMessage =
  | { readonly type: 'loaded' }
  /** QEMU has the machine's state; memory is served on demand. */
  | { readonly type: 'machine-loaded' }
  | {
      readonly type: 'complete';
      readonly counters: TransferCounters;
      /** 0th to 100th. Null: there were no faults, or nobody has kept their times. */
      readonly faultPercentilesUs: readonly number[] | null;
      readonly completeAtMs: number;
    }
  | {
      readonly type: 'failed';
      readonly code: string;
      readonly message: string;
      readonly hint?: string | undefined;
    };
