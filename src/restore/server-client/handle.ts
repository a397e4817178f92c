/** A VM's memory that is being served, whichever process started the server. */
import type { VmckptError } from '../../errors.js';
import type { ServerMessage } from '../../serving-protocol/messages.js';

type Complete = Extract<ServerMessage, { type: 'complete' }>;

/** How a transfer ended; `lost` when no process serves the memory any more and none has reported why. */
export type TransferEnd =
  Complete | { readonly type: 'failed'; readonly error: VmckptError } | { readonly type: 'lost' };

/** A serving process at work, or a succession of them. */
export interface ServedTransfer {
  /** Never rejects. */
  readonly ended: Promise<TransferEnd>;
  /** How many times another process has replaced one that died. */
  readonly takeoverCount: number;
  onTakeover: () => void;
  /** Ends the process that currently serves. */
  kill(): void;
  /** The verb may end now; the transfer goes on. */
  release(): void;
}
