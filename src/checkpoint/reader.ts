/** Opens a generation: manifest, layout, device state and pages, each verified when it is used. */
import path from 'node:path';
import { ANOTHER_GENERATION, VmckptError } from '../errors.js';
import { xxh3 } from '../native/index.js';
import type { PageCatalog } from '../pages/contracts.js';
import { RamLayout } from '../pages/layout.js';
import { readRegular } from '../util/regular-file.js';
import { GENERATION_FILES, checksumText } from './format.js';
import { Hints } from './hints.js';
import { generationLabel, openFailure, readManifest, type Manifest } from './manifest.js';
import { openPageFiles, type OpenPageFiles } from './page-files.js';
import { PagesReader } from './pages-reader.js';

export class CheckpointReader extends PagesReader implements PageCatalog {
  readonly manifest: Manifest;
  readonly layout: RamLayout;
  /** What restores of this generation have taught. */
  readonly hints: Hints;
  readonly #dir: string;

  readonly #files: OpenPageFiles;

  private constructor(dir: string, manifest: Manifest) {
    const label = generationLabel(dir);
    const layout = layoutOf(manifest, label);
    const { extentPages } = manifest.pages;
    const files = openPageFiles(dir, manifest);
    super({ label, pageCount: layout.pageCount, extentPages }, files);
    this.#files = files;
    this.manifest = manifest;
    this.layout = layout;
    this.hints = Hints.of(dir, manifest.id);
    this.#dir = dir;
  }

  /**
   * Reads the manifest and the tables of its indexes, nothing that grows with the size of RAM.
   * @throws VmckptError MANIFEST_DAMAGED, INDEX_DAMAGED, EXTENT_DAMAGED (a cut file), FORMAT_UNSUPPORTED,
   *   FILE_MISSING, NOT_A_FILE, NOT_PERMITTED
   */
  static async open(dir: string): Promise<CheckpointReader> {
    return CheckpointReader.of(dir, readManifest(dir));
  }

  /** The same with a manifest that has been read. @throws VmckptError as open() */
  static of(dir: string, manifest: Manifest): CheckpointReader {
    return new CheckpointReader(dir, manifest);
  }

  close(): void {
    this.#files.close();
  }

  /** @throws VmckptError DEVICE_STATE_DAMAGED, FILE_MISSING, NOT_A_FILE, NOT_PERMITTED */
  async deviceState(): Promise<Buffer> {
    const file = path.join(this.#dir, GENERATION_FILES.deviceState);
    const { deviceStateBytes } = this.manifest.sizes;
    let bytes: Buffer | undefined;
    try {
      bytes = readRegular(file, deviceStateBytes);
    } catch (error) {
      throw openFailure(error, this.label, GENERATION_FILES.deviceState);
    }
    if (bytes?.length !== deviceStateBytes) {
      const found = bytes === undefined ? 'more' : `${bytes.length} bytes`;
      throw this.#deviceStateDamaged(`it has ${found}, ${deviceStateBytes} expected`);
    }
    const found = checksumText(xxh3(bytes));
    const expected = this.manifest.checksums.deviceState;
    if (found !== expected) throw this.#deviceStateDamaged(`its checksum is ${found}, ${expected} expected`);
    return bytes;
  }

  #deviceStateDamaged(fault: string): VmckptError {
    return new VmckptError('DEVICE_STATE_DAMAGED', `the device state of ${this.label} is damaged: ${fault}`, {
      hint: ANOTHER_GENERATION,
    });
  }
}

function layoutOf(manifest: Manifest, label: string): RamLayout {
  try {
    return new RamLayout(manifest.ram.blocks);
  } catch (cause) {
    throw new VmckptError('MANIFEST_DAMAGED', `the manifest of ${label} names RAM blocks that cannot be`, {
      hint: ANOTHER_GENERATION,
      cause,
    });
  }
}
