/** docs/format.md lists the fields of the manifest: exactly those that the schema has, with their types. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import type * as v from 'valibot';
import { expect, test } from 'vitest';
import { format1Schema, manifestSchema } from '../../../src/checkpoint/manifest-schema.js';
import { PACKAGE_ROOT } from '../../../src/util/package-paths.js';

type Schema = v.GenericSchema & {
  readonly pipe?: readonly { readonly kind: string }[];
  readonly entries?: Readonly<Record<string, Schema>>;
  readonly item?: Schema;
  readonly wrapped?: Schema;
  readonly value?: Schema;
  readonly literal?: unknown;
  readonly options?: readonly unknown[];
};

test('the manifest in docs/format.md is that of the schema', () => {
  const rows = documented('field');
  expect(rows.map(({ field, type }) => [field, type])).toEqual(fieldsOf('', manifestSchema as Schema));
  for (const { field, meaning } of rows) expect(meaning, `meaning of ${field}`).not.toBe('');
});

test('so is what the manifest of format 1 has otherwise', () => {
  const newest = new Map(fieldsOf('', manifestSchema));
  const oldest = new Map(fieldsOf('', format1Schema));
  const differing = [...oldest].filter(([field, type]) => newest.get(field) !== type);
  const missing = [...newest.keys()].filter((field) => !oldest.has(field)).map((field) => [field, 'none']);
  const rows = documented('field of format 1').map(({ field, type }) => [field, type]);
  expect(rows).toEqual([...differing, ...missing]);
});

/** The rows of the table under `manifest.json` that begins with this column. */
function documented(column: string): { field: string; type: string; meaning: string }[] {
  const text = readFileSync(path.join(PACKAGE_ROOT, 'docs/format.md'), 'utf8');
  const table = new RegExp(
    `^\\| ${column} \\| type \\| meaning \\|\\n\\|[-|]+\\|\\n((?:\\|.*\\n)+)`,
    'm',
  ).exec(text)?.[1];
  if (table === undefined) throw new Error(`docs/format.md has no table "${column} | type | meaning"`);
  return [...table.matchAll(/^\| `(.+?)` \| (.+?) \| (.*?) *\|$/gm)].map(([, field, type, meaning]) => ({
    field: field!,
    type: type!,
    meaning: meaning!,
  }));
}

/** `[path, type]` of each field of `schema` and of what lies in it; `prefix` ends with a dot, or is empty. */
function fieldsOf(prefix: string, schema: Schema): [string, string][] {
  return Object.entries(schema.entries ?? {}).flatMap(([name, entry]) => {
    const isOptional = entry.type === 'optional';
    const inner = innermost(isOptional ? entry.wrapped! : entry);
    const element = inner.type === 'array' ? innermost(inner.item!) : inner;
    const below = `${prefix}${name}${inner.type === 'array' ? '[]' : ''}.`;
    return [
      [`${prefix}${name}`, `${isOptional ? 'optional ' : ''}${typeOf(inner)}`] as [string, string],
      ...fieldsOf(below, element),
    ];
  });
}

/** A piped schema is what its last schema makes of the value. */
function innermost(schema: Schema): Schema {
  return (schema.pipe?.findLast(({ kind }) => kind === 'schema') as Schema | undefined) ?? schema;
}

function typeOf(schema: Schema): string {
  switch (schema.type) {
    case 'number':
      return 'integer';
    case 'literal':
      return `\`${JSON.stringify(schema.literal)}\``;
    case 'picklist':
      return schema.options!.map((option) => `\`${JSON.stringify(option)}\``).join(', ');
    case 'union':
      return (schema.options as Schema[]).map((option) => typeOf(innermost(option))).join(' or ');
    case 'array':
      return `list of ${typeOf(innermost(schema.item!))}s`;
    case 'record':
      return `map of ${typeOf(innermost(schema.value!))}s`;
    default:
      return schema.type;
  }
}
