/**
 * The process that serves a restored VM's memory. There is one per VM, independent of the verb that started it, so that
 * nothing else delays a fault and the verb may end. Its messages to the verb: serving-protocol/messages.ts.
 */
import { VmckptError } from '../errors.js';
import { fromArguments, type ServerArguments } from '../serving-protocol/arguments.js';
import { debug } from '../util/debug.js';
import { setOptimizing } from '../util/optimizing.js';
import { log } from './log.js';
import { Server } from './server.js';
import { VerbLine } from './verb-line.js';

async function main({ isSuccessor = false, ...service }: ServerArguments): Promise<number> {
  // QEMU starts at the same time, and the restore waits for both. A successor must be fast: a VM already waits for it.
  setOptimizing(isSuccessor);
  const verb = new VerbLine();
  let server: Server | undefined;
  try {
    server = await Server.open({ ...service, verb });
    await server.run(isSuccessor);
    return 0;
  } catch (error) {
    const known = server === undefined ? error : server.fail(error);
    const { code, message, hint, exitCode } =
      known instanceof VmckptError ? known : new VmckptError('TRANSFER_FAILED', String(known));
    debug('serving', () => `failed: ${code} ${message}`);
    await verb.tell({ type: 'failed', code, message, hint });
    await log('error', { err: known }, 'failed').catch(() => undefined);
    return exitCode;
  } finally {
    server?.close();
  }
}

// Ctrl-C is meant for the verb: the VM still needs its memory.
process.on('SIGINT', () => undefined);
// Not awaited: a chunk that is loaded later may import this file, and the two would wait for each other.
void main(fromArguments(process.argv.slice(2))).then((code) => process.exit(code));
