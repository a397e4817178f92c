/**
 * What a migration stream of the same VM would hold besides its pages: a restore needs it, and QEMU writes only the
 * devices for us.
 */
import { SECTION } from '../migration-stream/constants.js';
import { splitSavedDevices } from '../migration-stream/device-state.js';
import type { ParsedStream } from '../migration-stream/parser.js';
import type { RamLayout } from '../pages/layout.js';

const MAX_SECTION_ID = 4096;

export interface CapturedMachine {
  /** Resolved: `pc-q35-7.2`. */
  readonly machineName: string;
  readonly layout: RamLayout;
  /** As xen-save-devices-state writes them. */
  readonly savedDevices: Buffer;
}

/** @throws VmckptError STREAM_TRUNCATED when the devices are not whole */
export function streamParts({ machineName, layout, savedDevices }: CapturedMachine): ParsedStream {
  const { deviceState, description } = splitSavedDevices(savedDevices);
  return {
    configuration: configurationOf(machineName),
    machineName,
    ramSectionId: freeSectionId(deviceState),
    deviceState,
    description,
    layout,
    dataPageCount: 0,
    fillPageCount: 0,
    byteCount: 0,
  };
}

/** Its subsections stand only where a capability, or a machine with pages of several sizes, asks for them. */
function configurationOf(machineName: string): Buffer {
  const bytes = Buffer.alloc(5 + machineName.length);
  bytes.writeUInt8(SECTION.configuration, 0);
  bytes.writeUInt32BE(machineName.length, 1);
  bytes.write(machineName, 5, 'latin1');
  return bytes;
}

/** QEMU numbers all sections, and leaves out that of "ram" here: the first gap is the number that a stream would have. */
function freeSectionId(deviceState: Buffer): number {
  for (let id = 0; id <= MAX_SECTION_ID; id++) if (!hasSection(deviceState, id)) return id;
  throw new Error(`the devices have more than ${MAX_SECTION_ID} sections`);
}

/** Whether a section begins with that number: its type, the number, and a name with its length. */
function hasSection(deviceState: Buffer, id: number): boolean {
  const header = Buffer.alloc(5);
  header.writeUInt8(SECTION.full, 0);
  header.writeUInt32BE(id, 1);
  for (let at = deviceState.indexOf(header); at >= 0; at = deviceState.indexOf(header, at + 1)) {
    const nameAt = at + header.length + 1;
    const name = deviceState.toString('latin1', nameAt, nameAt + deviceState[nameAt - 1]!);
    if (/^[ -~]+$/.test(name)) return true;
  }
  return false;
}
