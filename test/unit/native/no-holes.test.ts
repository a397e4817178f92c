import { spawnSync } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { NO_HOLES_PATH } from '../../../src/native/index.js';
import { temporaryDirectory } from './temporary.js';

const FALLOCATE = '/usr/bin/fallocate';
const WITHOUT_RIGHTS = ['/usr/bin/setpriv', '--bounding-set=-all', '--inh-caps=-all', '--'] as const;

describe('vmckpt-no-holes', () => {
  function punch(before: readonly string[], file: string) {
    const [program, ...args] = [...before, FALLOCATE, '--punch-hole', '-o', '0', '-l', '4096', file];
    return spawnSync(program, args, { encoding: 'utf8' });
  }

  test.each([
    ['its program', [NO_HOLES_PATH]],
    ["its program's children", [NO_HOLES_PATH, '/bin/sh', '-c', '"$@"', 'sh']],
    ['a program without rights', [...WITHOUT_RIGHTS, NO_HOLES_PATH]],
  ])('keeps %s from punching holes into a file that it may write to', (_title, before) => {
    const file = path.join(temporaryDirectory(), 'file');
    writeFileSync(file, Buffer.alloc(8192, 1));
    expect(punch(before, file)).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('unsupported') as string,
    });
    expect(readFileSync(file).equals(Buffer.alloc(8192, 1))).toBe(true);
    expect(punch([], file).status).toBe(0);
    expect(readFileSync(file)[0]).toBe(0);
    expect(statSync(file).size).toBe(8192);
  });

  test('becomes its program, and says why when it cannot', () => {
    const echo = spawnSync(NO_HOLES_PATH, ['/bin/sh', '-c', 'echo $$ "$1"', 'sh', 'a b'], {
      encoding: 'utf8',
    });
    expect(echo).toMatchObject({ status: 0, stdout: `${echo.pid} a b\n` });
    expect(spawnSync(NO_HOLES_PATH).status).toBe(2);
    expect(spawnSync(NO_HOLES_PATH, ['/nowhere/qemu'], { encoding: 'utf8' })).toMatchObject({
      status: 127,
      stderr: 'vmckpt-no-holes: execv: No such file or directory\n',
    });
  });
});
