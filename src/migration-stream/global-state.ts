/**
 * What the machine did when it was saved. QEMU writes it among the devices, in the section "globalstate":
 * `04, be32 id, u8 11, "globalstate", be32 instance 0, be32 version 1, be32 length, the state's name, zeros`. Since
 * version 9 the two bytes behind the first 32 of the name tell whether a paused machine sleeps (S3).
 * Source: streams of QEMU 7.2 and 10.0.
 */
const SECTION_BEGIN = Buffer.from('\x0bglobalstate\0\0\0\0\0\0\0\x01', 'latin1');
const LENGTH_BYTES = 4;
const MAX_NAME_BYTES = 32;

export interface GlobalState {
  /** QEMU's RunState. */
  readonly name: string;
  /** It sleeps as soon as it runs again. */
  readonly sleeps: boolean;
}

/** Without the section QEMU lets a machine run, and so does this. */
export function globalStateIn(deviceState: Buffer): GlobalState {
  const nameAt = nameOffset(deviceState);
  if (nameAt === undefined) return { name: 'running', sleeps: false };
  const [name = ''] = deviceState.toString('latin1', nameAt, nameAt + MAX_NAME_BYTES).split('\0', 1);
  const [known, asleep] = deviceState.subarray(nameAt + MAX_NAME_BYTES);
  return { name, sleeps: name === 'suspended' || (known === 1 && asleep === 1) };
}

/** The same devices, of a machine in the state `name`. */
export function withGlobalState(deviceState: Buffer, name: string): Buffer {
  const nameAt = nameOffset(deviceState);
  if (nameAt === undefined) return deviceState;
  const changed = Buffer.from(deviceState);
  changed.fill(0, nameAt, nameAt + MAX_NAME_BYTES);
  changed.write(name, nameAt, 'latin1');
  changed.writeUInt32BE(name.length + 1, nameAt - LENGTH_BYTES);
  return changed;
}

/** The same devices, of a machine that was paused only to be saved: it runs, or sleeps. */
export function asUnpaused(deviceState: Buffer): Buffer {
  const { name, sleeps } = globalStateIn(deviceState);
  return name === 'paused' ? withGlobalState(deviceState, sleeps ? 'suspended' : 'running') : deviceState;
}

/** It is the last section: what looks like it before that is some device's memory. */
function nameOffset(deviceState: Buffer): number | undefined {
  const section = deviceState.lastIndexOf(SECTION_BEGIN);
  return section < 0 ? undefined : section + SECTION_BEGIN.length + LENGTH_BYTES;
}
