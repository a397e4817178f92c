/** A VM's memory that is being served, whoever has started the process that does so. */
import type { VmckptError } from '../../errors.js';
import type { ServerMessage } from '../../serving-protocol/messages.js';

type Complete = Extract<ServerMessage, { type: 'complete' }>;

/** How a transfer ended; `lost` when nobody serves the memory any more, and nobody has said why. */
export type TransferEnd =
  Complete | { readonly type: 'failed'; readonly error: VmckptError } | { readonly type: 'lost' };

/** A serving process at work, or a succession of them. */
export interface ServedTransfer {
  /** Never rejects. */
  readonly ended: Promise<TransferEnd>;
  /** How often another process has taken the place of one that died. */
  readonly takeoverCount: number;
  onTakeover: () => void;
  /** Ends the process that serves at this moment. */
  kill(): void;
  /** The verb may end now, the transfer goes on. */
  release(): void;
}
