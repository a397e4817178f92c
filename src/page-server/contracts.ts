/**
 * Where packs are read from, wherever they lie: a folder, a page server, an object store. No source is trusted with
 * content: who uses an extent, a chunk or a device state verifies it with the checksums of the manifest, and manifests of
 * replicas are compared.
 */
import { DISKS_AT_END_FILE } from '../checkpoint/disks-at-end.js';
import { GENERATION_FILES, HOT_PACK_FILE } from '../checkpoint/format.js';
import { MAX_DEVICE_STATE_BYTES } from '../checkpoint/manifest.js';
import type { GenerationSummary } from '../store/store.js';
import { WORKING_SET_FILE } from '../working-set/file.js';
import { NEXT_PLAN_FILE } from '../working-set/next-plan.js';

/** A read of an earlier lane passes those of later ones: a guest waits for it, will soon ask for it, needs it some time. */
export const LANES = ['demand', 'predicted', 'rest'] as const;
export type Lane = (typeof LANES)[number];

/** Bytes that one read gives at most. */
export const MAX_RANGE_BYTES = 8 << 20;

/** A file that is read as a whole has at most so many bytes. */
export const MAX_WHOLE_BYTES = MAX_DEVICE_STATE_BYTES;
/** A hint that is written over the network. Longer ones stay where they were learnt. */
export const MAX_WRITTEN_HINT_BYTES = 4 << 20;

/** Hints that whoever restores a generation may write. */
export const WRITTEN_HINTS = [WORKING_SET_FILE, NEXT_PLAN_FILE] as const;
export type WrittenHint = (typeof WRITTEN_HINTS)[number];
/** Hints may be missing, and may be replaced while a generation is there. */
const HINT_FILES = [...WRITTEN_HINTS, HOT_PACK_FILE, DISKS_AT_END_FILE] as const;
/** The files of a generation, apart from its packs. */
export const SMALL_FILES = [...Object.values(GENERATION_FILES), 'seal', ...HINT_FILES] as const;
export type SmallFile = (typeof SMALL_FILES)[number];

export interface Range {
  readonly offset: number;
  /** At most MAX_RANGE_BYTES. */
  readonly length: number;
}

export interface PackRange extends Range {
  /** 32 hexadecimal digits. */
  readonly packId: string;
}

export interface ReadOptions {
  readonly lane: Lane;
  readonly signal?: AbortSignal | undefined;
}

/**
 * A source that cannot be reached, is busy, or has gone away fails with SOURCE_UNAVAILABLE: try again, or ask another one.
 * Every other code is an answer.
 */
export interface PackSource {
  /** For messages: `tls://a:7070`. */
  readonly label: string;
  /** Which of these packs are there, in generations that may be read. @throws VmckptError SOURCE_UNAVAILABLE */
  have(packIds: readonly string[]): Promise<ReadonlySet<string>>;
  /**
   * `length` bytes of a pack of a generation that was opened.
   * @throws VmckptError NO_PACK; EXTENT_DAMAGED when it ends before; SOURCE_UNAVAILABLE; the signal's reason
   */
  read(range: PackRange, options: ReadOptions): Promise<Uint8Array>;
  /** Fails what is still under way. */
  close(): Promise<void>;
}

/** What `list` shows of a generation, as its store says. */
export type RemoteGeneration = Omit<GenerationSummary, 'seal' | 'rawMemory'>;

/** Its store does not remove it until it is closed, or the connection is lost. */
export interface OpenedGeneration {
  readonly name: string;
  readonly number: number;
  /** Verbatim; the receiver decodes and verifies it. At most MAX_MANIFEST_BYTES. */
  readonly manifest: Uint8Array;
  /** The small files that are there, with their lengths in bytes. */
  readonly files: ReadonlyMap<SmallFile, number>;
  /**
   * The whole file by default; in the lane `demand` by default.
   * @returns undefined when there is no such file; fewer bytes where it ends before `range` does
   * @throws VmckptError SOURCE_UNAVAILABLE; FAILED for a whole file of more than MAX_WHOLE_BYTES; the signal's reason
   */
  readFile(file: SmallFile, range?: Range, options?: ReadOptions): Promise<Uint8Array | undefined>;
  /**
   * Replaces a hint as a whole: a WrittenHint of up to MAX_WRITTEN_HINT_BYTES.
   * @throws VmckptError NOT_PERMITTED, SOURCE_UNAVAILABLE, NO_SPACE
   */
  writeHint(file: WrittenHint, bytes: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

export interface PushedGeneration {
  readonly name: string;
  readonly number: number;
  /** The manifest's. */
  readonly id: string;
}

/** A generation on its way into a store. What was put outlasts this object, connections and servers. */
export interface Push {
  /** It is there already, as commit() would have left it. */
  readonly isCommitted: boolean;
  /** How many bytes of a file were put so far. */
  receivedBytes(file: string): Promise<number>;
  /** Adds to the end of a file: `pack-ID`, or one of SMALL_FILES. `offset` is receivedBytes(). */
  put(file: string, offset: number, bytes: Uint8Array): Promise<void>;
  /**
   * Makes it a generation: with the packs that were put, and those that have() found. Does nothing if it is one.
   * @throws VmckptError NO_PACK, FILE_MISSING for what is not there; INDEX_DAMAGED and others for what is not as the
   *   manifest says; GENERATION_DIFFERS when another one has taken its number; NO_SPACE; SOURCE_UNAVAILABLE
   */
  commit(): Promise<void>;
  /** Lets go of it. What was put stays for another attempt. */
  close(): Promise<void>;
}

export interface DeletedFiles {
  readonly packs: number;
  /** Of packs and other files. */
  readonly bytes: number;
}

/** A store elsewhere: its generations, apart from their packs. */
export interface RemoteStore extends PackSource {
  /** Those that may be read. */
  list(): Promise<RemoteGeneration[]>;
  /** @param reference `NAME` (its newest) or `NAME@NUMBER`. @throws VmckptError NO_CHECKPOINT, NOT_PERMITTED, SOURCE_UNAVAILABLE */
  open(reference: string): Promise<OpenedGeneration>;
  /** @throws VmckptError GENERATION_DIFFERS, NOT_PERMITTED, STORE_LOCKED while another one pushes it, SOURCE_UNAVAILABLE */
  push(generation: PushedGeneration): Promise<Push>;
  /** @param reference `NAME@NUMBER`. @throws VmckptError STORE_LOCKED while it is in use, and as open() */
  remove(reference: string): Promise<void>;
  /**
   * Only of a store at which nothing of ours runs: deletes what no generation needs, nor one that was removed lately.
   * @param graceMs what is younger stays
   * @throws VmckptError STORE_LOCKED while a generation is written, NOT_PERMITTED, SOURCE_UNAVAILABLE
   */
  deleteUnneeded?(graceMs: number): Promise<DeletedFiles>;
}
