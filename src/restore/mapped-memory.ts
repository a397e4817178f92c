/** For `restore --mode map`: the file that a generation's main memory is mapped from, and how this QEMU opens it. */
import type { Manifest } from '../checkpoint/manifest.js';
import { requireRawMemory } from '../checkpoint/raw-memory.js';
import { findQemuBinary } from '../qemu/launch.js';
import { opensMemoryReadOnly, type MappedMemory } from '../qemu/mapped-memory.js';

/** @throws VmckptError NO_RAW_MEMORY, RAW_MEMORY_CHANGED, MAP_REFUSED, QEMU_NOT_FOUND */
export async function chooseMappedMemory(
  dir: string,
  manifest: Manifest,
  qemuBinary: string | undefined,
): Promise<MappedMemory> {
  const { file, block, sizeBytes } = requireRawMemory(dir, manifest);
  const binary = findQemuBinary({ chosen: qemuBinary, recorded: manifest.qemu.binaryName });
  return { file, block, sizeBytes, readOnly: await opensMemoryReadOnly(binary) };
}
