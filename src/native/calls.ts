/** What the addon exports (native/binding/addon.cc), and which calls work without it. */

export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

export interface ReceivedMessage {
  /** Empty at the end of the stream. */
  readonly payload: Buffer;
  readonly fds: number[];
}

export interface RescueResult {
  /** userfaultfds found in the process. */
  readonly descriptors: number;
  /** Write-protected regions that were released. */
  readonly regions: number;
}

export interface Addon {
  peerCredentials(fd: number): PeerCredentials;
  connectUnix(socketPath: string): number;
  sendFds(socketFd: number, payload: Uint8Array, fds: readonly number[]): void;
  receiveFds(options: {
    readonly socketFd: number;
    readonly maxBytes: number;
    readonly maxFds: number;
    readonly timeoutMs: number;
  }): { message: Promise<ReceivedMessage>; cancel: () => void };
  makeSocketPair(): [number, number];
  makePipe(capacityBytes: number): [readEnd: number, writeEnd: number];
  readAvailable(fd: number, into: Uint8Array): number;
  tryLockFile(fd: number): boolean;
  isFileLocked(fd: number, byte?: number): boolean;
  syncFileRange(fd: number, offsetBytes: number, lengthBytes: number): void;
  nextData(fd: number, offsetBytes: number): number;
  readAhead(fd: number, offsetBytes: number, lengthBytes: number): Promise<void>;
  exitNow(code: number): never;
  pidfdOpen(pid: number): number;
  pidfdGetfd(pidfd: number, targetFd: number): number;
  pidfdSendSignal(pidfd: number, signal: number): void;
  xxh3(bytes: Uint8Array, start: number, end: number): bigint;
  hashPages(pages: Uint8Array, pageCount: number, hashes: Uint8Array): void;
  rescueUserfaultfd(pid: number): RescueResult;
  takeUserfaultfds(pid: number): number[];
  missingPageRegions(pid: number): BigUint64Array;
  waitsAt(options: {
    readonly userfaultfd: number;
    readonly start: number;
    readonly end: number;
    readonly pageBytes: number;
  }): boolean;
  readonly constants: Readonly<Record<string, number>>;
  presentPages(pid: number, address: number, pageCount: number): Uint8Array;
}

/** The calls that work without the addon. */
export type Substitutable = Pick<
  Addon,
  | 'isFileLocked'
  | 'exitNow'
  | 'hashPages'
  | 'makePipe'
  | 'nextData'
  | 'peerCredentials'
  | 'readAhead'
  | 'readAvailable'
  | 'sendFds'
  | 'syncFileRange'
  | 'tryLockFile'
  | 'xxh3'
>;
