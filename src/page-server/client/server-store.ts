/**
 * A store behind a page server. Demanded reads, and everything that is waited for, have a connection of their own, so that
 * bulk never stands in front of them. A connection that was lost is made again by the next request, and what is open is
 * opened on it again; it must have the same manifest.
 */
import { checksumText } from '../../checkpoint/format.js';
import { MAX_MANIFEST_BYTES } from '../../checkpoint/manifest.js';
import { ERROR_CODES, type ErrorCode } from '../../errors.js';
import { xxh3 } from '../../native/index.js';
import { parseReference } from '../../store/reference.js';
import { LineSplitter } from '../../util/lines.js';
import { packageVersion } from '../../util/package-paths.js';
import { parse } from '../../util/schema.js';
import { formatAddress, parseAddress, requireSafe } from '../address.js';
import {
  MAX_RANGE_BYTES,
  type Lane,
  type OpenedGeneration,
  type PackRange,
  type Push,
  type PushedGeneration,
  type ReadOptions,
  type RemoteGeneration,
  type RemoteStore,
} from '../contracts.js';
import { malformed } from '../wire/frame.js';
import { MAX_LISTED, MAX_LISTING_LINE_BYTES } from '../wire/limits.js';
import { listedSchema } from '../wire/messages.js';
import { ByteSink } from './byte-sink.js';
import { Connection, type ClientPatience } from './connection.js';
import { dial, type DialOptions } from './dial.js';
import { Line } from './line.js';
import { OpenedOnServer } from './opened-on-server.js';
import { ServerPush } from './server-push.js';

const PATIENCE = { dialMs: 10_000, helloMs: 10_000, silenceMs: 30_000 } as const;

export interface ConnectOptions extends Omit<DialOptions, 'timeoutMs'> {
  readonly patience?: Partial<ClientPatience & { readonly dialMs: number }>;
}

/**
 * Connects when it is first asked for something.
 * @param address `tls://HOST:PORT`, `tcp://HOST:PORT` or `unix:PATH`
 * @throws VmckptError USAGE
 */
export function connectStore(address: string, options: ConnectOptions = {}): RemoteStore {
  const parsed = parseAddress(address);
  requireSafe(parsed, options.insecurePlaintext);
  const label = formatAddress(parsed);
  const patience = { ...PATIENCE, ...options.patience };
  return new ServerStore(label, async () => {
    const stream = await dial(parsed, { ...options, timeoutMs: patience.dialMs });
    return Connection.open(stream, { label, patience, agent: `vmckpt ${packageVersion()}` });
  });
}

class ServerStore implements RemoteStore {
  readonly label: string;
  readonly #demand: Line;
  readonly #bulk: Line;
  readonly #opened = new Set<OpenedOnServer>();

  constructor(label: string, connect: () => Promise<Connection>) {
    this.label = label;
    this.#demand = new Line(connect);
    this.#bulk = new Line(connect);
  }

  async list(): Promise<RemoteGeneration[]> {
    const listed: RemoteGeneration[] = [];
    const lines = new LineSplitter(MAX_LISTING_LINE_BYTES);
    const onBytes = (piece: Uint8Array) => {
      for (const line of lines.push(Buffer.from(piece))) listed.push(parseListed(line));
      if (listed.length > MAX_LISTED) throw malformed(`a list of more than ${MAX_LISTED} generations`);
    };
    await (await this.#demand.ready()).request('list', {}, { onBytes });
    return listed;
  }

  async open(reference: string): Promise<OpenedGeneration> {
    const { name, generation } = parseReference(reference);
    const connection = await this.#demand.ready();
    const sink = new ByteSink(MAX_MANIFEST_BYTES);
    const found = await connection.request('open', { reference }, { onBytes: sink.take });
    if (found.name !== name || found.number !== (generation ?? found.number))
      throw malformed(`${found.name}@${found.number} instead of ${reference}`);
    const manifest = sink.bytes();
    if (checksumText(xxh3(manifest)) !== found.manifestXxh3)
      throw malformed(`the manifest of ${reference} has another checksum`);
    const opened = new OpenedOnServer(
      { ...found, manifest },
      {
        openedOn: connection,
        ready: (lane) => this.#lineOf(lane).ready(),
        onClose: () => this.#opened.delete(opened),
      },
    );
    this.#opened.add(opened);
    return opened;
  }

  async read({ packId, offset, length }: PackRange, { lane, signal }: ReadOptions): Promise<Uint8Array> {
    if (length < 1 || length > MAX_RANGE_BYTES)
      throw new RangeError(`a range of ${length} bytes, expected 1 to ${MAX_RANGE_BYTES}`);
    const connection = await this.#lineOf(lane).ready();
    await Promise.all([...this.#opened].map((opened) => opened.reopen(connection)));
    const sink = new ByteSink(length);
    const body = { packId, offset, length, lane, deadlineMs: 0 };
    await connection.request('read', body, { lane, signal, onBytes: sink.take });
    const bytes = sink.bytes();
    if (bytes.length < length) throw malformed(`${bytes.length} bytes of a pack, ${length} were asked for`);
    return bytes;
  }

  async have(packIds: readonly string[]): Promise<ReadonlySet<string>> {
    const connection = await this.#demand.ready();
    const { packIds: found } = await connection.request('have', { packIds: [...packIds] });
    return new Set(found.filter((id) => packIds.includes(id)));
  }

  async push(generation: PushedGeneration): Promise<Push> {
    return ServerPush.begin(await this.#bulk.ready(), generation);
  }

  async remove(reference: string): Promise<void> {
    await (await this.#demand.ready()).request('remove', { reference });
  }

  async close(): Promise<void> {
    await Promise.all([this.#demand.close(), this.#bulk.close()]);
  }

  #lineOf(lane: Lane): Line {
    return lane === 'demand' ? this.#demand : this.#bulk;
  }
}

/** @throws VmckptError SOURCE_MALFORMED */
function parseListed(line: string): RemoteGeneration {
  try {
    const { name, generation, facts, problem } = parse(listedSchema, JSON.parse(line));
    return { name, generation, facts, problem: problem && { ...problem, code: knownCode(problem.code) } };
  } catch (error) {
    throw malformed(`a line of the list: ${String(error)}`);
  }
}

/** A server may be newer than this client. */
function knownCode(code: string): ErrorCode {
  return code in ERROR_CODES ? (code as ErrorCode) : 'FAILED';
}
