/** Runs `vmckpt save` as a user does, in a process of its own, and watches its memory. */
import { execFile } from 'node:child_process';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import * as v from 'valibot';
import { VmckptError } from '../../errors.js';
import { freedBytes } from '../../store/freed-bytes.js';
import { nowMs, roundMs } from '../../timeline/clock.js';
import { distFile } from '../../util/package-paths.js';
import { finite, integer, parse } from '../../util/schema.js';
import { Sampler } from '../sampler.js';
import type { SaveFigures } from './figures.js';

const execute = promisify(execFile);
const MAX_OUTPUT_BYTES = 16 << 20;

const reportSchema = v.object({ generation: integer, totalMs: finite, pauseMs: finite });

export interface SaveVerbOptions {
  /** `qmp:PATH` */
  readonly vm: string;
  readonly storeDir: string;
  readonly runtimeDir: string;
  readonly signal: AbortSignal;
}

export type VerbFigures = Required<
  Pick<SaveFigures, 'totalMs' | 'verbMs' | 'pauseMs' | 'storedBytes' | 'processPeakBytes'>
>;

export class SaveVerb {
  readonly #options: SaveVerbOptions;
  readonly #help: string;

  private constructor(options: SaveVerbOptions, help: string) {
    this.#options = options;
    this.#help = help;
  }

  static async open(options: SaveVerbOptions): Promise<SaveVerb> {
    const { stdout } = await runVerb(['help', 'save'], options);
    return new SaveVerb(options, stdout);
  }

  /** Whether it can tell the next save what was written since. */
  get tracks(): boolean {
    return this.#has('--track');
  }

  get trackArgs(): readonly string[] {
    return this.tracks ? ['--track'] : [];
  }

  /** Stock QEMU cannot save a VM that is tracked. */
  async endTracking(name: string): Promise<void> {
    if (this.#has('--untrack')) await this.save(name, ['--untrack']);
  }

  /** Saves the VM as the next generation of `name`. @throws VmckptError FAILED with what the verb says */
  async save(name: string, args: readonly string[] = []): Promise<VerbFigures> {
    const { vm, storeDir, runtimeDir } = this.#options;
    const sampler = new Sampler(runtimeDir);
    const startMs = nowMs();
    try {
      const { stdout } = await runVerb(
        ['--json', '--store', storeDir, 'save', ...args, vm, name],
        this.#options,
      );
      const verbMs = roundMs(nowMs() - startMs);
      const { generation, totalMs, pauseMs } = parse(reportSchema, JSON.parse(stdout));
      const storedBytes = await freedBytes(path.join(storeDir, name, String(generation)));
      return { totalMs, verbMs, pauseMs, storedBytes, processPeakBytes: sampler.helperPeakBytes };
    } finally {
      sampler.stop();
    }
  }

  #has(option: string): boolean {
    return new RegExp(`^ +${option}\\b`, 'm').test(this.#help);
  }

  async forget(name: string): Promise<void> {
    await rm(path.join(this.#options.storeDir, name), { recursive: true, force: true });
  }
}

async function runVerb(
  args: readonly string[],
  { signal }: Pick<SaveVerbOptions, 'signal'>,
): Promise<{ readonly stdout: string }> {
  const command = ['--pdeathsig', 'KILL', '--', process.execPath, distFile('cli/main.js'), ...args];
  try {
    return await execute('setpriv', command, { signal, maxBuffer: MAX_OUTPUT_BYTES });
  } catch (error) {
    signal.throwIfAborted();
    const said = (error as { readonly stderr?: string }).stderr?.trim() ?? String(error);
    throw new VmckptError('FAILED', `vmckpt ${args.join(' ')} failed: ${said}`, { cause: error });
  }
}
