/** What a manifest says about the VM, from QEMU's own account of it. */
import path from 'node:path';
import type { ManifestParts } from '../checkpoint/manifest.js';
import type { SavedVm } from '../launch/launch-plan.js';
import type { Problem } from '../launch/requirements.js';
import type { ParsedStream } from '../migration-stream/parser.js';
import type { Drift } from '../qemu/drift/drift.js';
import { changedParts } from '../qemu/changed-parts.js';
import type { VmDescription } from '../qemu/inspect.js';
import type { DiskFile } from '../util/disk-files.js';
import { packageVersion } from '../util/package-paths.js';
import type { SaveMethod } from './methods.js';
import type { SavedState } from './run-states.js';

/** What a restore starts QEMU by; known before anything is saved. */
export function savedVmOf(name: string, vm: VmDescription): SavedVm {
  const changed = changedParts(vm);
  return {
    name,
    runState: vm.running ? 'running' : 'paused',
    qemu: {
      version: vm.version.text,
      binaryName: path.basename(vm.binary),
      process: { pid: vm.pid, startTicks: vm.startTicks },
    },
    machine: {
      type: vm.machineType,
      cpuModel: vm.cpu.model,
      cpuFeatures: vm.cpu.features,
      accelerator: vm.accelerator,
      cpuCount: vm.cpu.count,
      deviceTypes: vm.deviceTypes,
    },
    commandLine: vm.args,
    ...(changed.length > 0 && { changedParts: changed }),
    ...(vm.cwd !== undefined && { workingDirectory: vm.cwd }),
    process: vm.context,
  };
}

export interface ManifestSubject {
  /** What the rehearsal went by. */
  readonly savedVm: SavedVm;
  readonly generation: number;
  readonly vm: VmDescription;
  readonly drift: Drift;
  readonly method: SaveMethod;
  readonly stream: ParsedStream;
  readonly state: SavedState;
  readonly diskFiles: readonly DiskFile[];
  readonly restoreProblems: readonly Problem[];
}

export function manifestParts(subject: ManifestSubject): ManifestParts {
  const { savedVm, generation, vm, drift, method, stream, state, diskFiles, restoreProblems } = subject;
  const description = stream.description.toString('utf8');
  return {
    ...savedVm,
    generation,
    created: new Date().toISOString(),
    vmckptVersion: packageVersion(),
    mode: method,
    ...state,
    ...(restoreProblems.length > 0 && {
      restoreProblems: restoreProblems.map(({ code, message }) => ({ code, message })),
    }),
    migration: {
      configuration: stream.configuration.toString('base64'),
      ramSectionId: stream.ramSectionId,
      ...(description !== '' && { description }),
    },
    devices: [
      ...vm.devices.named.map(({ id, type }) => ({ qomPath: `/machine/peripheral/${id}`, type })),
      ...vm.devices.anonymous.map((type, index) => ({
        qomPath: `/machine/peripheral-anon/device[${index}]`,
        type,
      })),
    ],
    blockDevices: vm.disks.map(({ node, file, format, readOnly, sizeBytes }) => ({
      node,
      file,
      format,
      readOnly,
      sizeBytes,
    })),
    diskFiles: [...diskFiles],
    memoryBackends: vm.memoryBackends.map(({ id, sizeBytes, share }) => ({ id, sizeBytes, share })),
    settings: [...drift.settings],
    lost: [...drift.lost, ...drift.unexplained, ...drift.unreadable],
  };
}
