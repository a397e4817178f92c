/** Synthetic RAM for tests: every page's bytes follow from its number and a version. */
import type { ManifestParts } from '../../../src/checkpoint/manifest.js';
import { PAGE_BYTES } from '../../../src/pages/layout.js';

/**
 * Fills `into` with page `page`: random bytes, structured counters or text in turns, and never one repeated byte.
 * Different (page, version) pairs differ.
 */
export function syntheticPage(page: number, version = 0, into = new Uint8Array(PAGE_BYTES)): Uint8Array {
  const words = new Uint32Array(into.buffer, into.byteOffset, PAGE_BYTES / 4);
  let state = (page * 0x9e3779b1 + version * 0x85ebca6b + 1) >>> 0;
  const kind = page % 4;
  for (let at = 0; at < words.length; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[at] =
      kind === 0 ? state : kind === 1 ? page * 4096 + at * 8 : at % 16 < 5 ? state & 0xff0f : 0x20746865;
  }
  words[0] = page;
  words[1] = version + 1;
  return into;
}

export function manifestParts(overrides: Partial<ManifestParts> = {}): ManifestParts {
  return {
    name: 'web',
    generation: 1,
    created: '2026-01-02T03:04:05.678Z',
    vmckptVersion: '0.1.0',
    mode: 'stopped',
    runState: 'running',
    qemu: { version: '7.2.22', binaryName: 'qemu-system-x86_64' },
    machine: { type: 'pc-q35-7.2', cpuModel: 'qemu64-x86_64-cpu', accelerator: 'tcg' },
    migration: {
      configuration: Buffer.from('configuration').toString('base64'),
      ramSectionId: 2,
      description: '',
    },
    commandLine: ['-machine', 'q35'],
    devices: [{ qomPath: '/machine/peripheral/net0', type: 'virtio-net-pci' }],
    blockDevices: [{ node: 'disk0', file: 'disk.img', format: 'raw', readOnly: true, sizeBytes: 1 << 20 }],
    memoryBackends: [{ id: 'pc.ram', sizeBytes: 1 << 26, share: false }],
    ...overrides,
  };
}
