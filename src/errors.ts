/**
 * Every error that a user may see. A code is stable (scripts match on it) and belongs to one kind; the kind
 * decides the exit code. Anything that is not a VmckptError is a bug of ours.
 */

/** Kind → exit code of the CLI. */
export const EXIT_CODES = {
  failed: 1,
  usage: 2,
  partial: 3,
  notFound: 10,
  locked: 11,
  notPermitted: 12,
  damaged: 13,
  incompatible: 14,
  interrupted: 130,
} as const;

export type ErrorKind = keyof typeof EXIT_CODES;

/** Stable code → kind. */
export const ERROR_CODES = {
  // general
  FAILED: 'failed',
  USAGE: 'usage',
  INTERRUPTED: 'interrupted',
  TIMEOUT: 'failed',
  NOT_PERMITTED: 'notPermitted',
  NO_SPACE: 'failed',
  NATIVE_MISSING: 'failed',
  // checkpoint and store
  NO_STORE: 'notFound',
  NO_CHECKPOINT: 'notFound',
  BAD_NAME: 'usage',
  STORE_LOCKED: 'locked',
  STORE_NOT_WRITABLE: 'notPermitted',
  STORE_FOREIGN_OWNER: 'notPermitted',
  GENERATION_INCOMPLETE: 'notFound',
  FILE_MISSING: 'damaged',
  NOT_A_FILE: 'damaged',
  MANIFEST_DAMAGED: 'damaged',
  INDEX_DAMAGED: 'damaged',
  EXTENT_DAMAGED: 'damaged',
  DEVICE_STATE_DAMAGED: 'damaged',
  FORMAT_UNSUPPORTED: 'incompatible',
  MEMORY_ONLY: 'incompatible',
  NOT_MEMORY_ONLY: 'incompatible',
  NO_RAW_MEMORY: 'notFound',
  RAW_MEMORY_CHANGED: 'damaged',
  // QMP and QEMU
  QMP_UNREACHABLE: 'notFound',
  QMP_NOT_QMP: 'failed',
  QMP_BUSY: 'locked',
  QMP_CLOSED: 'failed',
  QMP_COMMAND_FAILED: 'failed',
  QEMU_NOT_FOUND: 'notFound',
  QEMU_FAILED_TO_START: 'failed',
  QEMU_DIED: 'failed',
  QEMU_INCOMPATIBLE: 'incompatible',
  QEMU_UNSUPPORTED: 'incompatible',
  COMMAND_LINE_UNSUPPORTED: 'incompatible',
  COMMAND_LINE_UNTRUSTED: 'notPermitted',
  COLLISION: 'failed',
  PLACE_DIFFERS: 'incompatible',
  MIGRATION_BLOCKED: 'incompatible',
  MIGRATION_FAILED: 'failed',
  VM_BUSY: 'locked',
  VM_STATE: 'failed',
  DISKS_WRITABLE: 'incompatible',
  DISKS_CHANGED: 'incompatible',
  // files of the user's
  FILE_EXISTS: 'failed',
  FILE_UNREADABLE: 'failed',
  HOST_FILE_MISSING: 'notFound',
  PATH_TOO_LONG: 'incompatible',
  // migration stream
  STREAM_MALFORMED: 'damaged',
  STREAM_TRUNCATED: 'damaged',
  // restored VMs
  NO_SUCH_VM: 'notFound',
  TRANSFER_FAILED: 'failed',
  DIRECT_REFUSED: 'incompatible',
  MAP_REFUSED: 'incompatible',
  CAPTURE_REFUSED: 'incompatible',
  // learning
  PROBE_FAILED: 'failed',
  // the guest's agent
  AGENT_SILENT: 'failed',
  AGENT_REFUSED: 'failed',
  // stores elsewhere
  SOURCE_UNAVAILABLE: 'failed',
  SOURCE_MALFORMED: 'damaged',
  NO_PACK: 'notFound',
  GENERATION_DIFFERS: 'incompatible',
  TLS_REFUSED: 'notPermitted',
  S3_CLIENT_MISSING: 'failed',
  S3_UNCONDITIONAL: 'incompatible',
  // other VMMs
  HANDSHAKE_REFUSED: 'failed',
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof ERROR_CODES;

/** Hints that many messages about a damaged generation end with. */
export const ANOTHER_GENERATION = 'Restore another generation.';
export const DAMAGE_HINT = 'vmckpt check lists all damage. Use another generation.';

export interface ErrorDetails {
  /** What the user can do next: full sentences, the last of which may end with a colon and a command. */
  readonly hint?: string | undefined;
  readonly cause?: unknown;
}

export class VmckptError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;

  /** `message` states expected against actual; `hint` says what to do next. */
  constructor(code: ErrorCode, message: string, { hint, cause }: ErrorDetails = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'VmckptError';
    this.code = code;
    this.hint = hint;
  }

  get kind(): ErrorKind {
    return ERROR_CODES[this.code];
  }

  get exitCode(): number {
    return EXIT_CODES[this.kind];
  }
}
