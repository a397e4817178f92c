/**
 * Rewrites a command line: without parts that were removed since, and with parts that were added, if an option can
 * make them.
 */
import { propertiesOf, propertyOf, type Option } from '../command-line.js';
import type { Setting } from './settings.js';

/** The setting that shows that what an option made still exists. */
const MADE_BY: Readonly<Record<string, { readonly kind: string; readonly id: string }>> = {
  object: { kind: 'object', id: 'id' },
  chardev: { kind: 'chardev', id: 'id' },
  blockdev: { kind: 'node', id: 'node-name' },
};
/** Objects that can be created again from what they show. */
const REPEATABLE_OBJECTS: ReadonlySet<string> = new Set(['iothread', 'throttle-group']);

/** Leaves out options whose parts are gone, unless another option still needs them: those are reported elsewhere. */
export function withoutRemoved(options: readonly Option[], settings: readonly Setting[]): Option[] {
  const present = new Set(settings.map(({ kind, id }) => `${kind} ${id}`));
  const gone = new Map<Option, string>();
  for (const option of options) {
    const made = MADE_BY[option.name];
    const id = made && propertyOf(option, made.id);
    if (id === undefined || id.startsWith('vmckpt-') || isMemory(option)) continue;
    if (!present.has(`${made!.kind} ${id}`)) gone.set(option, id);
  }
  for (let before = -1; before !== gone.size;) {
    before = gone.size;
    for (const [option, id] of gone)
      if (options.some((other) => !gone.has(other) && mentions(other, id))) gone.delete(option);
  }
  // `gdbserver none` closes the debugger's port again.
  const debugs = present.has('chardev gdb');
  return options.filter((option) => !gone.has(option) && (debugs || !['s', 'gdb'].includes(option.name)));
}

export function withAddedObjects(options: readonly Option[], settings: readonly Setting[]): Option[] {
  const objects = settings.filter(({ kind, name }) => kind === 'object' && name === 'type');
  const added = objects.flatMap(({ id, value }): Option[] => {
    const type = JSON.parse(value) as string;
    const isGiven = options.some((option) => option.name === 'object' && propertyOf(option, 'id') === id);
    if (isGiven || !REPEATABLE_OBJECTS.has(type)) return [];
    const own = settings.filter((each) => each.kind === 'object' && each.id === id && each.name !== 'type');
    const properties = own.map((each) => [each.name, JSON.parse(each.value) as unknown] as const);
    return [
      { name: 'object', value: JSON.stringify({ 'qom-type': type, id, ...Object.fromEntries(properties) }) },
    ];
  });
  return [...options, ...added];
}

function isMemory(option: Option): boolean {
  return option.name === 'object' && /^memory-backend/.test(propertyOf(option, 'qom-type') ?? '');
}

function mentions(option: Option, id: string): boolean {
  return option.value === id || propertiesOf(option).some(({ value }) => value === id);
}
