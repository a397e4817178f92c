import { hasAddon } from '../../native/index.js';
import { Keeper } from './keeper.js';
import type { ProcessParent, ServerStart } from './parent.js';
import { ThisProcess } from './this-process.js';

/** Starts the parent and, with it, the server, which opens the checkpoint while everything else is prepared. */
export function startParent(start: ServerStart): ProcessParent {
  return hasAddon() ? Keeper.start(start) : new ThisProcess(start);
}
