/**
 * QEMU's migration settings and progress. A capability that stays enabled silently corrupts later saves. So all
 * settings go through one function, which returns their former values for the journal, ready to be applied again.
 */
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { asRoot } from '../util/rights.js';
import { record } from '../util/schema.js';
import type { QmpClient } from './qmp.js';

export interface MigrationSettings {
  readonly capabilities: Readonly<Record<string, boolean>>;
  readonly parameters: Readonly<Record<string, unknown>>;
}

const Capabilities = v.array(v.object({ capability: v.string(), state: v.boolean() }));
const Parameters = record(v.unknown());

export async function readMigrationSettings(qmp: QmpClient): Promise<MigrationSettings> {
  const capabilities = await qmp.query(Capabilities, 'query-migrate-capabilities');
  const parameters = await qmp.query(Parameters, 'query-migrate-parameters');
  return {
    capabilities: Object.fromEntries(capabilities.map(({ capability, state }) => [capability, state])),
    parameters,
  };
}

/**
 * Applies the settings that differ. Applying the return value restores everything: it holds the former values of
 * exactly the named settings. @throws VmckptError QMP_COMMAND_FAILED, for example for a capability unknown to this
 * QEMU
 */
export async function applyMigrationSettings(
  qmp: QmpClient,
  wanted: Partial<MigrationSettings>,
): Promise<MigrationSettings> {
  const current = await readMigrationSettings(qmp);
  const capabilities = differing(wanted.capabilities ?? {}, current.capabilities);
  const parameters = differing(wanted.parameters ?? {}, current.parameters);
  if (capabilities.length > 0) {
    const list = capabilities.map(([capability, state]) => ({ capability, state }));
    await qmp.execute('migrate-set-capabilities', { capabilities: list });
  }
  if (parameters.length > 0) await qmp.execute('migrate-set-parameters', Object.fromEntries(parameters));
  return {
    capabilities: pick(current.capabilities, Object.keys(wanted.capabilities ?? {})),
    parameters: pick(current.parameters, Object.keys(wanted.parameters ?? {})),
  };
}

/** Whether withoutUserfaultfd() made this error. */
export function lacksUserfaultfd(error: unknown): boolean {
  const isRefusal = error instanceof VmckptError && error.code === 'NOT_PERMITTED';
  return isRefusal && error.cause instanceof VmckptError && error.cause.code === 'QMP_COMMAND_FAILED';
}

/** QEMU refuses a capability because it may not watch the VM's memory: what that lies in, or another userfaultfd. */
export function isUnwatchable(error: unknown): boolean {
  if (!(error instanceof VmckptError) || error.code !== 'QMP_COMMAND_FAILED') return false;
  return error.message.includes('guest memory configuration');
}

/** Explains QEMU's refusal of a capability that needs userfaultfd. Other errors stay unchanged. */
export function withoutUserfaultfd(
  error: unknown,
  { what, instead }: { readonly what: string; readonly instead: string },
): unknown {
  if (!(error instanceof VmckptError) || error.code !== 'QMP_COMMAND_FAILED') return error;
  if (isUnwatchable(error))
    return new VmckptError('MIGRATION_BLOCKED', `${what}: ${error.message}`, {
      hint: `Its memory cannot be watched for writes; it may be a file on a disk. Use instead: ${instead}.`,
      cause: error,
    });
  return new VmckptError('NOT_PERMITTED', `${what}: ${error.message}`, {
    hint: `${asRoot('Run QEMU', 'CAP_SYS_PTRACE')}, or set vm.unprivileged_userfaultfd=1 (sysctl). Without it: ${instead}.`,
    cause: error,
  });
}

const MigrationInfo = v.object({
  status: v.optional(v.string(), 'none'),
  'error-desc': v.optional(v.string()),
  'blocked-reasons': v.optional(v.array(v.string()), []),
  'total-time': v.optional(v.number(), 0),
  downtime: v.optional(v.number()),
  ram: v.optional(
    v.object({
      transferred: v.number(),
      remaining: v.number(),
      total: v.number(),
      duplicate: v.number(),
      normal: v.number(),
      'dirty-sync-count': v.optional(v.number(), 0),
    }),
  ),
});

export interface MigrationStatus {
  /** `none` when there never was one, otherwise QEMU's MigrationStatus: `active`, `completed`, `postcopy-paused`, … */
  readonly status: string;
  readonly errorText: string | undefined;
  readonly blockedReasons: readonly string[];
  readonly totalMs: number;
  readonly downtimeMs: number | undefined;
  readonly ram:
    | {
        readonly transferredBytes: number;
        readonly remainingBytes: number;
        readonly totalBytes: number;
        /** Pages sent as one repeated byte. */
        readonly duplicatePages: number;
        readonly normalPages: number;
        /** How many times QEMU has collected the dirty pages: the passes over memory. */
        readonly dirtySyncCount: number;
      }
    | undefined;
}

export async function queryMigrate(qmp: QmpClient): Promise<MigrationStatus> {
  const info = await qmp.query(MigrationInfo, 'query-migrate');
  return {
    status: info.status,
    errorText: info['error-desc'],
    blockedReasons: info['blocked-reasons'],
    totalMs: info['total-time'],
    downtimeMs: info.downtime,
    ram: info.ram && {
      transferredBytes: info.ram.transferred,
      remainingBytes: info.ram.remaining,
      totalBytes: info.ram.total,
      duplicatePages: info.ram.duplicate,
      normalPages: info.ram.normal,
      dirtySyncCount: info.ram['dirty-sync-count'],
    },
  };
}

/** Whether a migration with that status occupies the VM: it must end before another can begin. */
export function isMigrating(status: string): boolean {
  return !['none', 'completed', 'failed', 'cancelled'].includes(status);
}

function differing<T>(
  wanted: Readonly<Record<string, T>>,
  current: Readonly<Record<string, T>>,
): [string, T][] {
  return Object.entries(wanted).filter(
    ([key, value]) => JSON.stringify(current[key]) !== JSON.stringify(value),
  );
}

function pick<T>(from: Readonly<Record<string, T>>, keys: readonly string[]): Record<string, T> {
  return Object.fromEntries(keys.flatMap((key) => (key in from ? [[key, from[key]!] as const] : [])));
}
