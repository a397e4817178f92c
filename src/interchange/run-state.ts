/**
 * Whether the saved machine was running. QEMU writes it among the devices, in the section "globalstate":
 * `04, be32 id, u8 11, "globalstate", be32 instance 0, be32 version 1, be32 length, the state's name, zeros`.
 * Source: streams of QEMU 7.2 and 10.0.
 */
const SECTION_BEGIN = Buffer.from('\x0bglobalstate\0\0\0\0\0\0\0\x01', 'latin1');
const LENGTH_BYTES = 4;
const MAX_NAME_BYTES = 100;

/** Without the section QEMU lets a machine run, and so does this. */
export function runStateIn(deviceState: Buffer): 'running' | 'paused' {
  // It is the last section: what looks like it before that is some device's memory.
  const section = deviceState.lastIndexOf(SECTION_BEGIN);
  if (section < 0) return 'running';
  const nameAt = section + SECTION_BEGIN.length + LENGTH_BYTES;
  const [name] = deviceState.toString('latin1', nameAt, nameAt + MAX_NAME_BYTES).split('\0', 1);
  return name === 'running' ? 'running' : 'paused';
}
