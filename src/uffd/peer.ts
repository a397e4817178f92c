/**
 * The other end of a handshake: its identity, its userfaultfd, and its memory. A unix socket proves which process has
 * connected. Everything else is a claim of the peer, and is checked.
 */
import { closeSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError } from '../errors.js';
import { peerCredentials, pidfdOpen, pidfdSendSignal, receiveFds } from '../native/index.js';
import { identifyProcess, isAlive, type ProcessIdentity } from '../util/process-identity.js';
import { MAX_MESSAGE_BYTES, parseHandshake, type GuestRegion } from './handshake.js';

/** A VMM sends at once. With a longer timeout, a silent peer would keep others waiting. */
const HANDSHAKE_TIMEOUT_MS = 5000;
const LOOK_EVERY_MS = 20;
const SIGKILL = 9;
const USERFAULTFD = 'anon_inode:[userfaultfd]';
/** UFFD_FEATURE_… whose events change the memory map. Source: userfaultfd(2), linux/userfaultfd.h. */
const FOREIGN_FEATURES = { EVENT_FORK: 1 << 1, EVENT_REMAP: 1 << 2 } as const;
/** Without it, a page that the VM gave back before it was installed would later get the image's bytes. */
const EVENT_REMOVE = 1 << 3;

export class Peer {
  readonly identity: ProcessIdentity;
  readonly userfaultfd: number;
  readonly regions: readonly GuestRegion[];
  readonly #pidfd: number;

  private constructor(who: Who, { userfaultfd, regions }: Handed) {
    this.identity = who.identity;
    this.#pidfd = who.pidfd;
    this.userfaultfd = userfaultfd;
    this.regions = regions;
  }

  /**
   * Receives what the peer at the other end of `socket` hands over.
   * @throws VmckptError HANDSHAKE_REFUSED; the signal's reason
   */
  static async receive(socket: number, imageBytes: number, signal: AbortSignal): Promise<Peer> {
    const who = identify(socket);
    try {
      return new Peer(who, await receiveMemory(socket, imageBytes, signal));
    } catch (error) {
      closeSync(who.pidfd);
      throw error;
    }
  }

  /** Resolves when the process has ended; rejects with the signal's reason. */
  async ended(signal: AbortSignal): Promise<void> {
    while (isAlive(this.identity)) await sleep(LOOK_EVERY_MS, undefined, { signal });
  }

  /** Does nothing once the process has ended. */
  kill(): void {
    try {
      pidfdSendSignal(this.#pidfd, SIGKILL);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }

  close(): void {
    closeSync(this.userfaultfd);
    closeSync(this.#pidfd);
  }
}

interface Who {
  readonly identity: ProcessIdentity;
  readonly pidfd: number;
}

interface Handed {
  readonly userfaultfd: number;
  readonly regions: readonly GuestRegion[];
}

function identify(socket: number): Who {
  const { pid, uid } = peerCredentials(socket);
  const user = process.getuid!();
  if (user !== 0 && uid !== user) refuse(`process ${pid} belongs to user ${uid}, expected ${user}`);
  if (pid === 0)
    refuse('it runs in a PID namespace that cannot be seen from here: its end would go unnoticed');
  try {
    const pidfd = pidfdOpen(pid);
    const identity = identifyProcess(pid);
    if (identity !== undefined) return { identity, pidfd };
    closeSync(pidfd);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
  return refuse(`process ${pid} has ended`);
}

/** The descriptor may come with any part of the message, or after it. */
async function receiveMemory(socket: number, imageBytes: number, signal: AbortSignal): Promise<Handed> {
  const endMs = performance.now() + HANDSHAKE_TIMEOUT_MS;
  const fds: number[] = [];
  let message = Buffer.alloc(0);
  let regions: GuestRegion[] | undefined;
  try {
    while (regions === undefined || fds.length === 0) {
      const timeoutMs = Math.max(0, Math.ceil(endMs - performance.now()));
      // Two descriptors, to detect one too many.
      const limits = { maxBytes: MAX_MESSAGE_BYTES + 1, maxFds: 2, timeoutMs, signal };
      const received = await receiveFds(socket, limits);
      fds.push(...received.fds);
      if (received.payload.length === 0) refuse(endedEarly(message.length, fds.length));
      message = Buffer.concat([message, received.payload]);
      if (message.length > MAX_MESSAGE_BYTES)
        refuse(`expected at most ${MAX_MESSAGE_BYTES} bytes, received ${message.length}`);
      if (fds.length > 1) refuse('expected one descriptor, received more');
      regions = parseHandshake(message, imageBytes);
    }
    requireUserfaultfd(fds[0]!);
    return { userfaultfd: fds[0]!, regions };
  } catch (error) {
    for (const fd of fds) closeSync(fd);
    if ((error as NodeJS.ErrnoException).code === 'ETIMEDOUT')
      return refuse(
        `expected a message with a userfaultfd within ${HANDSHAKE_TIMEOUT_MS} ms, ` +
          `received ${message.length} bytes and ${fds.length} descriptors`,
      );
    if ((error as NodeJS.ErrnoException).code === 'ECONNRESET')
      return refuse(endedEarly(message.length, fds.length));
    throw error;
  }
}

function endedEarly(messageBytes: number, fdCount: number): string {
  return `expected a message with a userfaultfd, but the peer disconnected after ${messageBytes} bytes and ${fdCount} descriptors`;
}

function requireUserfaultfd(fd: number): void {
  const found = readlinkSync(`/proc/self/fd/${fd}`);
  if (found !== USERFAULTFD) refuse(`expected a userfaultfd, but the descriptor is ${found}`);
  const features = featuresOf(fd);
  for (const [name, bit] of Object.entries(FOREIGN_FEATURES))
    if ((features & bit) !== 0)
      refuse(`the userfaultfd has the feature ${name}, whose events are not supported`);
  if ((features & EVENT_REMOVE) === 0)
    refuse(
      'the userfaultfd lacks the feature EVENT_REMOVE: the VM would find old contents in memory that it has given back',
    );
}

/** The features that the peer has enabled with UFFDIO_API; none before that call. */
function featuresOf(fd: number): number {
  // "API:\t" version, features and ioctls, in hexadecimal.
  const api = /^API:\t[0-9a-f]+:([0-9a-f]+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'));
  return Number.parseInt(api?.[1] ?? '0', 16);
}

function refuse(message: string): never {
  throw new VmckptError('HANDSHAKE_REFUSED', message);
}
