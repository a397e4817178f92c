/** The program of docs/library.md, exactly as it is printed there, with a real VM. */
import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { PACKAGE_ROOT } from '../../src/util/package-paths.js';
import { killProcessesOf } from '../../src/bench/processes.js';
import { endScriptedVms, startScriptedVm } from '../support/tiny-vm.js';
import { suiteDirectory } from '../support/vitest.js';

const dir = suiteDirectory();
const runtimeDir = path.join(dir, 'run');
/** In the package, where `import 'vmckpt'` means the package itself. */
const scratch = path.join(PACKAGE_ROOT, '.cache/library');

beforeAll(() => {
  process.env['VMCKPT_RUNTIME_DIR'] = runtimeDir;
});
endScriptedVms();
afterAll(() => killProcessesOf(runtimeDir));

test('the program in docs/library.md saves, restores and lists a VM', async () => {
  const document = readFileSync(path.join(PACKAGE_ROOT, 'docs/library.md'), 'utf8');
  const program = /^```js\n(.*?)^```$/ms.exec(document)?.[1];
  if (program === undefined) throw new Error('docs/library.md shows no program');
  mkdirSync(scratch, { recursive: true });
  const file = path.join(scratch, 'program.js');
  writeFileSync(file, program);
  const vm = await startScriptedVm({ dir, script: 'exec "$@"' });

  const { stdout } = await promisify(execFile)(process.execPath, [
    file,
    vm.qmpSocket,
    path.join(dir, 'store'),
  ]);
  expect(stdout).toMatch(
    /^saved web@1 in \d+ ms\nrestored web as process \d+, monitor \S+\nweb@1: \d+ bytes\n$/,
  );
});
