import { describe, expect, it, vi } from 'vitest';
import { Output } from '../../../src/cli/output.js';
import { table } from '../../../src/cli/text.js';
import { VmckptError } from '../../../src/errors.js';

/** Moves the cursor, sets the title, clears (C1), turns the direction of text, rings, and forges a line. */
const HOSTILE = 'a\x1b[2J\x1b]0;title\x07\u009b2J\u202eb\r\x7f\u2028\u{e0001}c\nvmckpt: all is well';

/** What a call writes, to both streams. */
function written(options: { json?: true; verbose?: true }, call: (output: Output) => void): string {
  const said: string[] = [];
  const streams = [process.stdout, process.stderr].map((stream) =>
    vi.spyOn(stream, 'write').mockImplementation((text) => said.push(String(text)) > 0),
  );
  try {
    call(new Output({ color: false, ...options }));
  } finally {
    for (const stream of streams) stream.mockRestore();
  }
  return said.join('');
}

const CALLS: readonly (readonly [string, (output: Output) => void])[] = [
  ['message', (output) => output.message(HOSTILE)],
  ['detail', (output) => output.detail(HOSTILE)],
  ['result', (output) => output.result({ text: HOSTILE, [HOSTILE]: 1 }, HOSTILE)],
  [
    'failure',
    (output) =>
      output.failure(new VmckptError('FAILED', HOSTILE, { hint: HOSTILE, cause: new Error(HOSTILE) })),
  ],
];

describe('no text steers the terminal', () => {
  it.each(CALLS)('as a %s', (_what, call) => {
    for (const json of [undefined, true] as const) {
      const text = written({ verbose: true, ...(json && { json }) }, call);
      expect(text).toContain('a\\u');
      expect(text.replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
    }
  });

  it('and no message forges another one', () => {
    for (const [what, call] of CALLS.filter(([name]) => name !== 'result'))
      expect(written({ verbose: true }, call).replace(/^vmckpt: a/, ''), what).not.toMatch(/^vmckpt:/m);
  });

  it('nor a cell of a table a row', () => {
    expect(table(['A'], [[HOSTILE]]).split('\n')).toHaveLength(2);
  });

  it('and JSON says the same as before', () => {
    const text = written({ json: true }, (output) => output.result({ [HOSTILE]: HOSTILE }, ''));
    expect(JSON.parse(text)).toEqual({ [HOSTILE]: HOSTILE });
  });
});
