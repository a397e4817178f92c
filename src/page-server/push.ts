/** Sends a generation of a store of this host to a store elsewhere: what that has does not travel. */
import { GENERATION_FILES, HOT_PACK_FILE, packFile } from '../checkpoint/format.js';
import type { Format2Manifest } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { setTimeout as sleep } from 'node:timers/promises';
import { SMALL_FILES, type OpenedGeneration, type Push, type RemoteStore } from './contracts.js';
import { DirectoryStore } from './directory-store.js';
import { decodeFormat2 } from './fetcher/bring.js';
import { isUnavailable } from './fetcher/source.js';
import { openStore, type Access } from './open-store.js';

const PIECE_BYTES = 4 << 20;
const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 5000;

export interface PushOptions extends Access {
  readonly storeDir: string;
  /** NAME or NAME@NUMBER. */
  readonly reference: string;
  /** Address of the other store. */
  readonly target: string;
  /** How long the target may be away; no limit by default. */
  readonly sourceTimeoutMs?: number | undefined;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  readonly onMessage?: (text: string) => void;
  readonly signal?: AbortSignal | undefined;
}

export interface PushReport {
  readonly name: string;
  readonly generation: number;
  readonly id: string;
  /** It was there already. */
  readonly isUnchanged: boolean;
  /** Of its packs. */
  readonly totalBytes: number;
  /** That went over the network, in this run. */
  readonly sentBytes: number;
  readonly totalMs: number;
}

/** @throws VmckptError SOURCE_UNAVAILABLE, NO_CHECKPOINT, GENERATION_DIFFERS, NOT_PERMITTED, STORE_LOCKED, NO_SPACE and others */
export async function push(options: PushOptions): Promise<PushReport> {
  const from = await DirectoryStore.open(options.storeDir);
  try {
    const opened = await from.open(options.reference);
    try {
      const to = await openTarget(options);
      return await sendGeneration({ from, opened, to }, options).finally(() => to.close());
    } finally {
      await opened.close();
    }
  } finally {
    await from.close();
  }
}

/** @throws VmckptError as openStore() */
export function openTarget({
  target,
  tlsDir,
  insecurePlaintext,
}: Omit<PushOptions, 'reference'>): Promise<RemoteStore> {
  return openStore(target, { tlsDir, insecurePlaintext, isMade: true });
}

interface Ends {
  readonly from: RemoteStore;
  readonly opened: OpenedGeneration;
  readonly to: RemoteStore;
}

/** Goes on after a connection was lost, with what had come through. */
async function sendGeneration(ends: Ends, options: PushOptions): Promise<PushReport> {
  const startMs = performance.now();
  const { name, number, manifest: encoded } = ends.opened;
  const manifest = decodeFormat2(Buffer.from(encoded), `${name}@${number}`);
  const { id, pages } = manifest;
  let sentBytes = 0;
  const onSent = (bytes: number) => (sentBytes += bytes);
  const attempt = () => sendOnce(ends, { ...options, manifest, onSent });
  const isUnchanged = await whenTargetIsThere(attempt, options);
  const totalMs = Math.round(performance.now() - startMs);
  return { name, generation: number, id, isUnchanged, totalBytes: pages.fileBytes, sentBytes, totalMs };
}

/** Repeats what fails because the target is away, as long as that may last. */
async function whenTargetIsThere<T>(
  attempt: () => Promise<T>,
  { sourceTimeoutMs = Infinity, onMessage, signal }: PushOptions,
): Promise<T> {
  let awaySinceMs: number | undefined;
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS))
    try {
      return await attempt();
    } catch (error) {
      if (!isUnavailable(error)) throw error;
      if (awaySinceMs === undefined) onMessage?.(`${error.message}. Trying again.`);
      awaySinceMs ??= performance.now();
      if (performance.now() + pauseMs - awaySinceMs > sourceTimeoutMs) throw error;
      await sleep(pauseMs, undefined, { signal }).catch(() => signal?.throwIfAborted());
    }
}

interface Sending extends PushOptions {
  readonly manifest: Format2Manifest;
  readonly onSent: (bytes: number) => void;
}

/** @returns whether the target had it already */
async function sendOnce({ from, opened, to }: Ends, sending: Sending): Promise<boolean> {
  const { manifest, signal, onProgress, onSent } = sending;
  const { packs, pages, id } = manifest;
  const there = await to.have(packs.map((pack) => pack.id));
  const pushed = await to.push({ name: opened.name, number: opened.number, id });
  try {
    if (pushed.isCommitted) return true;
    let doneBytes = 0;
    const onPiece = (bytes: number): void => onProgress?.((doneBytes += bytes), pages.fileBytes);
    for (const pack of packs) {
      if (there.has(pack.id)) {
        onPiece(pack.fileBytes);
        continue;
      }
      const read = (offset: number, length: number) =>
        from.read({ packId: pack.id, offset, length }, { lane: 'rest', signal });
      const file = { name: packFile(pack.id), bytes: pack.fileBytes, read };
      await sendFile(pushed, file, { signal, onPiece, onSent });
    }
    for (const file of SMALL_FILES) await sendSmallFile(opened, pushed, { file, onSent });
    signal?.throwIfAborted();
    await pushed.commit();
    return false;
  } finally {
    await pushed.close().catch(() => undefined);
  }
}

interface SentFile {
  readonly name: string;
  readonly bytes: number;
  readonly read: (offset: number, length: number) => Promise<Uint8Array>;
}

interface Watch {
  readonly signal: AbortSignal | undefined;
  readonly onPiece: (bytes: number) => void;
  readonly onSent: (bytes: number) => void;
}

/** The next piece is read while one is on its way. */
async function sendFile(to: Push, file: SentFile, { signal, onPiece, onSent }: Watch): Promise<void> {
  const received = await to.receivedBytes(file.name);
  if (received > file.bytes)
    throw new VmckptError('FAILED', `${file.name} has ${received} bytes there, ${file.bytes} expected`);
  onPiece(received);
  const pieceAt = (offset: number) => file.read(offset, Math.min(PIECE_BYTES, file.bytes - offset));
  let next = received < file.bytes ? pieceAt(received) : undefined;
  for (let offset = received; next !== undefined;) {
    signal?.throwIfAborted();
    const piece = await next;
    const after = offset + piece.length;
    next = after < file.bytes ? pieceAt(after) : undefined;
    next?.catch(() => undefined); // put() may fail first
    await to.put(file.name, offset, piece);
    onPiece(piece.length);
    onSent(piece.length);
    offset = after;
  }
}

/** Not the hot pack, which has copies of extents. A hint that was sent before is left as it is. */
async function sendSmallFile(
  opened: OpenedGeneration,
  to: Push,
  { file, onSent }: { readonly file: (typeof SMALL_FILES)[number]; readonly onSent: (bytes: number) => void },
): Promise<void> {
  if (file === HOT_PACK_FILE) return;
  const bytes = file === GENERATION_FILES.manifest ? opened.manifest : await opened.readFile(file);
  if (bytes === undefined) return;
  for (let offset = await to.receivedBytes(file); offset < bytes.length; offset += PIECE_BYTES) {
    const piece = bytes.subarray(offset, offset + PIECE_BYTES);
    await to.put(file, offset, piece);
    onSent(piece.length);
  }
}
