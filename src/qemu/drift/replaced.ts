/**
 * Parts that have a name from the command line but are different ones: removed and added again, or changed in place.
 * They are found as far as QEMU shows their properties.
 */
import * as v from 'valibot';
import { characterDeviceOf } from '../character-device.js';
import { isOn, propertiesOf, propertyOf, type Option } from '../command-line.js';
import { givenNodes } from '../given-images.js';
import { describePlace, isSamePlace, nodeOptionsOf, placeOfName, placeOfNode } from '../image-reference.js';
import type { QmpClient } from '../qmp.js';
import { describePart, type Part } from './settings.js';
import type { Loss, Subject } from './unaccounted.js';

const Chardevs = v.array(v.object({ label: v.string(), filename: v.string() }));
const Nodes = v.array(
  v.object({
    'node-name': v.string(),
    file: v.string(),
    drv: v.string(),
    image: v.object({ 'virtual-size': v.number() }),
  }),
);

export interface Replaceable extends Subject {
  /** The folder from which relative paths are resolved. */
  readonly cwd: string;
}

export async function findReplaced(qmp: QmpClient, subject: Replaceable): Promise<Loss[]> {
  const [chardevs, nodes, objects] = await Promise.all([
    qmp.query(Chardevs, 'query-chardev'),
    qmp.query(Nodes, 'query-named-block-nodes', { flat: true }),
    replacedObjects(qmp, subject),
  ]);
  return [
    ...replacedChardevs(subject.options, new Map(chardevs.map(({ label, filename }) => [label, filename]))),
    ...replacedNodes(subject, nodes),
    ...replacedNetdevs(subject),
    ...objects,
  ];
}

function otherNow(part: Part, how: string): Loss {
  return { text: `${describePart(part)} ${how}`, part };
}

/** Options whose character devices QEMU numbers, with its names for them. */
const NUMBERED: ReadonlySet<string> = new Set(['serial', 'parallel']);

function replacedChardevs(options: readonly Option[], shown: ReadonlyMap<string, string>): Loss[] {
  const counts = new Map<string, number>();
  return options.flatMap((option) => {
    const count = counts.get(option.name) ?? 0;
    counts.set(option.name, count + 1);
    const device = characterDeviceOf(option);
    const id = NUMBERED.has(option.name) ? `${option.name}${count}` : device?.id;
    const filename = id === undefined ? undefined : (shown.get(`${id}-base`) ?? shown.get(id));
    if (device === undefined || filename === undefined || isTarget(filename, option)) return [];
    return [otherNow({ kind: 'chardev', id: id! }, `leads to ${filename} now (chardev-change)`)];
  });
}

const SOCKETS = /^(unix|tcp|telnet|tn3270|websocket|ws|wss|vsock|fd|abstract)$/;
/** How QEMU shows backends that it calls differently. */
const SHOWN_AS: Readonly<Record<string, RegExp>> = {
  socket: SOCKETS,
  null: /^null$/,
  file: /^file$/,
  pipe: /^pipe$/,
  pty: /^pty$/,
  ringbuf: /^(ringbuf|memory)$/,
  udp: /^udp$/,
};

/**
 * @param filename of `query-chardev`: `disconnected:unix:PATH,server=on`, `tcp:HOST:PORT <-> HOST:PORT`,
 * `pty:/dev/pts/1`, `file`
 */
function isTarget(filename: string, option: Option): boolean {
  const { backend, path, port, properties } = characterDeviceOf(option)!;
  const address = filename.replace(/^disconnected:/, '');
  const kind = /^[a-z0-9]+/.exec(address)?.[0] ?? '';
  const known = SHOWN_AS[backend];
  if (known === undefined) return !Object.values(SHOWN_AS).some((pattern) => pattern.test(kind));
  if (!known.test(kind)) return false;
  // A client shows its own end, which has no name.
  if (kind === 'unix' && path !== undefined)
    return address === 'unix:' || `${address},`.startsWith(`unix:${path},`);
  // QEMU shows no address for a UDP socket.
  if (kind === 'udp') return true;
  const isFixed = port !== undefined && Number(port) > 0 && !properties.some(({ key }) => key === 'to');
  return !isFixed || Array.from(address.matchAll(/:(\d+)/g), ([, number]) => number).includes(port);
}

function replacedNodes({ options, cwd }: Replaceable, shown: v.InferOutput<typeof Nodes>): Loss[] {
  const given = givenNodes(options);
  return shown.flatMap((node) => {
    const id = node['node-name'];
    const options = given.get(id);
    if (options === undefined) return [];
    const place = placeOfName(node.file);
    if (!isSamePlace(placeOfNode(options, given), place, cwd))
      return [otherNow({ kind: 'node', id }, `is ${describePlace(place)} now`)];
    const size = typeof options['size'] === 'string' ? bytesOf(options['size']) : undefined;
    const now = node.image['virtual-size'];
    const isCut = node.drv === 'raw' && node.file.startsWith('json:') && cutOf(node.file) !== undefined;
    if (node.drv !== 'raw' || (size === undefined ? !isCut : size === now)) return [];
    return [otherNow({ kind: 'node', id }, `has a size of ${now} bytes now (blockdev-reopen)`)];
  });
}

/** `size` of a raw node, which QEMU shows only if it was given. */
function cutOf(file: string): string | undefined {
  const option = { name: 'blockdev', value: file.slice('json:'.length) };
  const { size } = nodeOptionsOf(propertiesOf(option));
  return typeof size === 'string' ? size : undefined;
}

function replacedNetdevs({ options, network }: Subject): Loss[] {
  const shown = new Map(
    Array.from(network.matchAll(/^(?: \\ )?([^:\s]+): index=\d+,type=([a-z-]+)/gm), ([, id, type]) => [
      id,
      type,
    ]),
  );
  return options.flatMap((option) => {
    const id = option.name === 'netdev' ? propertyOf(option, 'id') : undefined;
    const type = shown.get(id);
    if (id === undefined || type === undefined || type === propertyOf(option, 'type')) return [];
    return [otherNow({ kind: 'netdev', id }, `is of the type ${type} now`)];
  });
}

/** Objects whose properties cannot change as long as they exist. */
const FIXED_OBJECTS = /^(secret|rng-|tls-|authz-(simple|list-file|pam)|input-)/;

async function replacedObjects(qmp: QmpClient, { options, settings }: Subject): Promise<Loss[]> {
  const found = options.map(async (option): Promise<Loss[]> => {
    const id = option.name === 'object' ? propertyOf(option, 'id') : undefined;
    const type = propertyOf(option, 'qom-type') ?? '';
    const now = settings.find((each) => each.kind === 'object' && each.id === id && each.name === 'type');
    if (id === undefined || now === undefined) return [];
    const part = { kind: 'object', id };
    if (JSON.parse(now.value) !== type) return [otherNow(part, `is of the type ${now.value} now`)];
    if (!FIXED_OBJECTS.test(type)) return [];
    const given = propertiesOf(option).filter(({ key }) => !/^(id|qom-type)$|\./.test(key));
    const changed = await Promise.all(
      given.map(async ({ key, value }) => {
        const shown = await qmp
          .execute('qom-get', { path: `/objects/${id}`, property: key })
          .catch(() => undefined);
        return isShownAs(value, shown) ? [] : [key];
      }),
    );
    // Without the values: they may be secrets.
    return changed.flat().map((key) => otherNow(part, `has another ${key} now`));
  });
  return (await Promise.all(found)).flat();
}

function isShownAs(given: string, shown: unknown): boolean {
  if (typeof shown === 'boolean') return isOn(given) === shown;
  if (typeof shown === 'number') return bytesOf(given) === shown;
  return typeof shown !== 'string' || shown === given;
}

const UNITS = 'BKMGTPE';

/** `64M`, `0x1000`, `512`. */
function bytesOf(text: string): number {
  const [, number = text, unit = 'B'] = /^(0x[0-9a-f]+|[\d.]+)([BKMGTPE])?$/i.exec(text) ?? [];
  return Number(number) * 1024 ** UNITS.indexOf(unit.toUpperCase());
}
