/** What a page server answers to the requests that it takes in their order. */
import { checksumText } from '../../checkpoint/format.js';
import { VmckptError } from '../../errors.js';
import { xxh3 } from '../../native/index.js';
import { parseReference } from '../../store/reference.js';
import { requireAccess, type Access } from '../access.js';
import { WRITTEN_HINTS, type RemoteGeneration, type RemoteStore, type WrittenHint } from '../contracts.js';
import type { FileBody } from '../wire/codecs.js';
import type { Request, RequestBody } from '../wire/messages.js';
import type { ServerCounters } from './counters.js';
import type { Handles } from './handles.js';

export interface Served {
  readonly store: RemoteStore;
  readonly counters: ServerCounters;
  readonly handles: Handles;
  readonly access: Access;
}

export interface Answer {
  readonly result?: unknown;
  readonly bytes?: Iterable<Uint8Array>;
}

const DONE: Answer = { result: {} };

/** @throws VmckptError as RemoteStore */
export async function answer({ kind, body }: Request, served: Served): Promise<Answer> {
  const { store, counters, handles, access } = served;
  switch (kind) {
    case 'list':
      return { bytes: listing(await store.list()) };
    case 'open':
      return open(body, served);
    case 'close':
      await handles.close(body.handle);
      return DONE;
    case 'have':
      return { result: { packIds: [...(await store.have(body.packIds))] } };
    case 'push':
      return beginPush(body, served);
    case 'received':
      return { result: { bytes: await handles.push(body.handle).receivedBytes(body.file) } };
    case 'put':
      await handles.push(body.handle).put(body.file, body.offset, body.bytes);
      return DONE;
    case 'commit':
      await handles.push(body.handle).commit();
      return DONE;
    case 'writeHint':
      await writeHint(body, served);
      return DONE;
    case 'remove':
      requireAccess(access, 'remove', parseReference(body.reference).name);
      await store.remove(body.reference);
      return DONE;
    case 'statistics':
      return { result: counters.summary() };
    default:
      throw new RangeError(`${kind} is not answered in order`);
  }
}

async function open(
  { reference, manifestXxh3 }: RequestBody<'open'>,
  { store, handles, access }: Served,
): Promise<Answer> {
  handles.requireRoom();
  requireAccess(access, 'read', parseReference(reference).name);
  const opened = await store.open(reference);
  const found = checksumText(xxh3(opened.manifest));
  if (manifestXxh3 !== undefined && manifestXxh3 !== found) {
    await opened.close();
    throw new VmckptError(
      'GENERATION_DIFFERS',
      `${reference} has another manifest: its checksum is ${found}, ${manifestXxh3} expected`,
      { hint: 'Another generation has taken its place, or this replica is of another store.' },
    );
  }
  const handle = handles.add({ name: opened.name, opened });
  const { name, number } = opened;
  const files = [...opened.files].map(([file, bytes]) => ({ file, bytes }));
  const result = { handle, name, number, manifestXxh3: found, files };
  return { result, bytes: manifestXxh3 === undefined ? [opened.manifest] : [] };
}

async function beginPush(
  generation: RequestBody<'push'>,
  { store, handles, access }: Served,
): Promise<Answer> {
  handles.requireRoom();
  requireAccess(access, 'push', generation.name);
  const push = await store.push(generation);
  return { result: { handle: handles.add({ name: generation.name, push }), isCommitted: push.isCommitted } };
}

/** @throws VmckptError FAILED for a file that is none of those hints; as OpenedGeneration.writeHint() */
async function writeHint({ handle, file, bytes }: FileBody, { handles, access }: Served): Promise<void> {
  if (!(WRITTEN_HINTS as readonly string[]).includes(file))
    throw new VmckptError('FAILED', `${JSON.stringify(file)} is no hint that may be written`);
  const opened = handles.opened(handle);
  requireAccess(access, 'push', opened.name);
  await opened.writeHint(file as WrittenHint, bytes);
}

function* listing(generations: readonly RemoteGeneration[]): Generator<Uint8Array> {
  for (const generation of generations) yield Buffer.from(`${JSON.stringify(generation)}\n`);
}
