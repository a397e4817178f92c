/** docs/protocol.md has the numbers of the code. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { WIRE_ERRORS } from '../../../src/page-server/wire/errors.js';
import * as limits from '../../../src/page-server/wire/limits.js';

const text = readFileSync('docs/protocol.md', 'utf8');

it('lists every error', () => {
  for (const [code, { number, retryable }] of Object.entries(WIRE_ERRORS))
    expect(text).toMatch(
      new RegExp(`^\\| ${number} \\| \`${code}\`.* \\| ${retryable ? 'yes' : 'no'} \\|$`, 'm'),
    );
});

it('names every limit', () => {
  for (const [name, value] of Object.entries(limits)) {
    const digits = String(value).replace(/\B(?=(\d{3})+$)/g, value >= 10_000 ? ' ' : '');
    expect(text).toMatch(new RegExp(`\`${name}\`.*\\b${digits}\\b`));
  }
});
