/** What a serving process is started with (native/core/keeper.cc has the same numbers). */

/** Argument of a serving process that replaces one that died. */
export const SUCCESSOR_FLAG = '--successor';
/** The serving process's descriptors: its line to the verb, and its line to the keeper (native/core/keeper.h). */
export const VERB_FD = 3;
export const KEEPER_FD = 4;
/** What a keeper holds for a serving process, by slot. */
export const HELD = { migrationSocket: 0, userfaultfd: 1, pageTable: 2 } as const;
