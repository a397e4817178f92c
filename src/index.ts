/** The library's only public face. Whatever is not exported here may change at any time. */
export { EXIT_CODES, VmckptError } from './errors.js';
export type { ErrorCode, ErrorDetails, ErrorKind } from './errors.js';
export { save } from './save/save.js';
export type { SaveOptions, SaveReport } from './save/save.js';
export type { InstantParticipant } from './save/instant.js';
export { restore } from './restore/restore.js';
export type { RestoreOptions } from './restore/attempt.js';
export type { RestoreReport } from './restore/report.js';
export { takeOver } from './restore/take-over.js';
export type { TakeOverOptions } from './restore/take-over.js';
export { Store } from './store/store.js';
export type { Generation, GenerationSummary, PendingGeneration, StoreOptions } from './store/store.js';
export { CheckpointReader } from './checkpoint/reader.js';
export type { Manifest } from './checkpoint/manifest.js';
export { checkCheckpoint } from './checkpoint/check.js';
export type { CheckOptions, CheckProblem, CheckReport } from './checkpoint/check.js';
export { importMachine } from './interchange/import.js';
export { exportMachine } from './interchange/export.js';
