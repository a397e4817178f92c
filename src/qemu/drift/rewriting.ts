/** A command line without what has been removed since, and with what has been added, where an option can say it. */
import { propertiesOf, propertyOf, type Option } from '../command-line.js';
import type { Setting } from './settings.js';

/** Which setting shows that what an option has made is still there. */
const MADE_BY: Readonly<Record<string, { readonly kind: string; readonly id: string }>> = {
  object: { kind: 'object', id: 'id' },
  chardev: { kind: 'chardev', id: 'id' },
  blockdev: { kind: 'node', id: 'node-name' },
};
/** Objects that can be made again from what they show of themselves. */
const REPEATABLE_OBJECTS: ReadonlySet<string> = new Set(['iothread', 'throttle-group']);

/** Leaves out options whose parts have gone, unless another one still needs them: that is for others to name. */
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
  // The debugger's port is closed again by gdbserver none.
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
