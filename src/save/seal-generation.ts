/** A save marks its generation as this user's own, so that its restore needs no word of trust. */
import { encodeManifest, type Manifest } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import type { VmDescription } from '../qemu/inspect.js';
import { withoutRunOnly } from '../qemu/restore-command-line.js';
import { untrustedOptions } from '../qemu/trust.js';
import { ensureSealKey, type SealKey } from '../store/seal-key.js';
import { writeSeal } from '../store/seal.js';

/**
 * The generation in `dir` is whole and not yet committed.
 * @returns a sentence for the user when it could not be sealed: it is a checkpoint all the same
 * @throws VmckptError NO_SPACE, STORE_NOT_WRITABLE, FAILED
 */
export async function sealGeneration(
  dir: string,
  { manifest, vm }: { readonly manifest: Manifest; readonly vm: VmDescription },
): Promise<string | undefined> {
  // A process can rewrite what /proc shows as its command line: another user's may have.
  if (!vm.isOwn) return unsealed(manifest, 'QEMU runs as another user, who could have changed it');
  let key: SealKey;
  try {
    key = await ensureSealKey();
  } catch (error) {
    if (!(error instanceof VmckptError)) throw error;
    return unsealed(manifest, error.message);
  }
  await writeSeal(dir, encodeManifest(manifest), key);
  return undefined;
}

function unsealed({ name, generation, commandLine, workingDirectory }: Manifest, reason: string): string {
  const consequence =
    untrustedOptions(withoutRunOnly(commandLine), { cwd: workingDirectory }).length === 0
      ? 'It can be restored all the same.'
      : 'Its restore will need --trust-command-line.';
  return `${name}@${generation} cannot be sealed: ${reason}. ${consequence}`;
}
