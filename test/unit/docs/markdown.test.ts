/** README and docs: short lines, for readable diffs, and links that lead somewhere. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { PACKAGE_ROOT } from '../../../src/util/package-paths.js';

const MAX_CHARACTERS = 120;

const files = ['.', 'docs'].flatMap((folder) =>
  readdirSync(path.join(PACKAGE_ROOT, folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => path.join(folder, name)),
);

describe.each(files)('%s', (file) => {
  const text = readFileSync(path.join(PACKAGE_ROOT, file), 'utf8');

  // Markdown cannot wrap the row of a table.
  test(`no line but the row of a table has more than ${MAX_CHARACTERS} characters`, () => {
    const isLong = (line: string) => !line.startsWith('|') && [...line].length > MAX_CHARACTERS;
    expect(text.split('\n').filter(isLong)).toEqual([]);
  });

  test('every link to a file or heading of the project leads there', () => {
    const targets = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target!);
    expect(targets.filter((target) => !target.includes('://') && !leadsSomewhere(file, target))).toEqual([]);
  });
});

function leadsSomewhere(from: string, target: string): boolean {
  const [relative, anchor] = target.split('#') as [string, string | undefined];
  const file = path.join(PACKAGE_ROOT, relative === '' ? from : path.join(path.dirname(from), relative));
  if (!existsSync(file)) return false;
  return anchor === undefined || headingsOf(readFileSync(file, 'utf8')).includes(anchor);
}

/** As forges name them in links. */
function headingsOf(markdown: string): string[] {
  return [...markdown.matchAll(/^#+ (.+)$/gm)].map(([, title]) =>
    title!
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  );
}
