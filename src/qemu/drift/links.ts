/**
 * Network cards whose link is down, from the machine's saved state, because no monitor shows it. Only for cards that
 * lose this state when they are loaded; others restore it themselves.
 */
import * as v from 'valibot';
import type { Setting } from './settings.js';

/** A saved machine: its device sections, and QEMU's own description of their fields. */
export interface DeviceSections {
  readonly deviceState: Buffer;
  /** JSON. */
  readonly description: Buffer;
}

interface LinkField {
  readonly name: string;
  /** Offset in the field, which is big-endian. */
  readonly byte: number;
  readonly mask: number;
}

/** Where the state of a card holds its link; the bit is set while the link is up. */
const LINK_FIELDS: Readonly<Record<string, LinkField>> = {
  vmxnet3: { name: 'link_status_and_speed', byte: 3, mask: 0x01 },
  pcnet: { name: 'state', byte: 11, mask: 0x40 },
};

const Field = v.object({ name: v.string(), size: v.number(), array_len: v.optional(v.number(), 1) });
const Description = v.object({
  devices: v.array(
    v.object({ name: v.string(), instance_id: v.number(), fields: v.optional(v.array(v.unknown()), []) }),
  ),
});

/** A length-prefixed name, instance and version precede the fields. */
const VERSION_BYTES = 4;

/**
 * @param network `info network`, which names the cards
 * @returns the links to take down again; `untold`, one clause each: if only some cards of a model are down, it is
 *   unknown which
 */
export function cutLinks(
  { deviceState, description }: DeviceSections,
  network: string,
): { readonly links: Setting[]; readonly untold: string[] } {
  const cards = Array.from(network.matchAll(/^(\S+): index=0,type=nic,model=([^,]+)/gm), ([, id, model]) => ({
    id: id!,
    model: model!,
  }));
  if (description.length === 0) {
    // A paused VM is saved without a description.
    const silent = cards.filter(({ model }) => LINK_FIELDS[model] !== undefined);
    return {
      links: [],
      untold: silent.map(({ id, model }) => `whether the link of ${id} (${model}) is cut`),
    };
  }
  const cut = cutModels(deviceState, description);
  const links: Setting[] = [];
  const untold: string[] = [];
  for (const model of new Set(cut)) {
    const ids = cards.flatMap((card) => (card.model === model ? [card.id] : []));
    // All of them, or the only one.
    if (ids.length === cut.filter((each) => each === model).length)
      links.push(...ids.map((id) => ({ kind: 'link', id, name: 'up', value: 'false' })));
    else untold.push(`the link of one of the cards ${ids.join(', ')} (${model}) is cut`);
  }
  return { links, untold };
}

/** The model of each card whose link is down. */
function cutModels(deviceState: Buffer, description: Buffer): string[] {
  const parsed = v.safeParse(Description, JSON.parse(description.toString('utf8')));
  if (!parsed.success) return [];
  return parsed.output.devices.flatMap(({ name, instance_id: instance, fields }) => {
    const model = name.slice(name.lastIndexOf('/') + 1);
    const link = LINK_FIELDS[model];
    const at = link && fieldAt(deviceState, { name, instance, fields, field: link.name });
    const byte = at === undefined ? undefined : deviceState[at + link!.byte];
    return byte !== undefined && (byte & link!.mask) === 0 ? [model] : [];
  });
}

interface Wanted {
  readonly name: string;
  readonly instance: number;
  readonly fields: readonly unknown[];
  readonly field: string;
}

/** The offset of a field. Fields follow each other, each with the size in the description. */
function fieldAt(deviceState: Buffer, { name, instance, fields, field }: Wanted): number | undefined {
  const header = Buffer.alloc(1 + name.length + 4);
  header.writeUInt8(name.length, 0);
  header.write(name, 1, 'latin1');
  header.writeUInt32BE(instance, 1 + name.length);
  const begin = deviceState.indexOf(header);
  if (begin === -1) return undefined;
  let at = begin + header.length + VERSION_BYTES;
  for (const each of fields) {
    const parsed = v.safeParse(Field, each);
    if (!parsed.success) return undefined;
    if (parsed.output.name === field) return at;
    at += parsed.output.size * parsed.output.array_len;
  }
  return undefined;
}
