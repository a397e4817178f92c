/** Hints have one style: full sentences, which a command may end behind a colon. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import { ANOTHER_GENERATION, DAMAGE_HINT } from '../../src/errors.js';

/** `writeHint` is a message that carries one of another kind. */
const NAME = /(?<!write)hint$/i;
const BEGINNING = /^([A-Z…]|vmckpt )/;
const END = /[.?…]$|: \S/;

/** `…` stands for what is computed. */
function textsOf(node: ts.Expression): string[] {
  if (ts.isStringLiteralLike(node)) return [node.text];
  if (ts.isTemplateExpression(node))
    return [node.head.text + node.templateSpans.map(({ literal }) => `…${literal.text}`).join('')];
  if (ts.isConditionalExpression(node)) return [...textsOf(node.whenTrue), ...textsOf(node.whenFalse)];
  if (ts.isParenthesizedExpression(node)) return textsOf(node.expression);
  if (!ts.isBinaryExpression(node)) return [];
  const [left, right] = [textsOf(node.left), textsOf(node.right)];
  if (node.operatorToken.kind !== ts.SyntaxKind.PlusToken) return [...left, ...right];
  return [(left[0] ?? '…') + (right[0] ?? '…')];
}

function hintsIn(file: string): string[] {
  const source = ts.createSourceFile(file, readFileSync(file, 'utf8'), ts.ScriptTarget.Latest, true);
  const found: string[] = [];
  const visit = (node: ts.Node): void => {
    const isNamed = ts.isPropertyAssignment(node) || ts.isVariableDeclaration(node);
    if (isNamed && NAME.test(node.name.getText(source)) && node.initializer !== undefined)
      found.push(...textsOf(node.initializer).filter((text) => text !== ''));
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

describe('a hint', () => {
  const files = readdirSync('src', { recursive: true, encoding: 'utf8' }).filter((name) =>
    name.endsWith('.ts'),
  );
  const hints = files.flatMap((file) => hintsIn(path.join('src', file)).map((text) => ({ file, text })));

  it('is a full sentence', () => {
    expect(hints.length).toBeGreaterThan(100);
    expect(hints.filter(({ text }) => !BEGINNING.test(text) || !END.test(text))).toEqual([]);
  });

  it('about damage has one place', () => {
    const shared = new Set<string>([ANOTHER_GENERATION, DAMAGE_HINT]);
    const copies = hints.filter(({ file, text }) => shared.has(text) && file !== 'errors.ts');
    expect(copies).toEqual([]);
  });
});
