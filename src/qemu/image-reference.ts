/**
 * The meaning of an image reference, however it is spelled: `nbd:unix:S`, `nbd+unix:///?socket=S` and a tree of
 * options are the same place. Formats and filters are ignored: two references are the same image if their data comes
 * from the same place. Source: the block drivers' options in qemu-system(1) and qemu-block-drivers(7).
 */
import { realpathSync, statSync } from 'node:fs';
import path from 'node:path';
import type { Property } from './command-line.js';

/** Where the data is. */
export type ImagePlace =
  /** As written; relative paths are resolved from QEMU's folder. */
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'nbd'; readonly server: string; readonly export: string }
  /** Anything else, with its driver's options. */
  | { readonly kind: 'other'; readonly driver: string; readonly options: Readonly<Record<string, string>> };

/** Options of a block node, as JSON and dotted keys give them. */
export interface NodeOptions {
  readonly [key: string]: NodeValue;
}
export type NodeValue = string | NodeOptions;

/** Nodes that others may refer to. */
export type NamedNodes = ReadonlyMap<string, NodeOptions>;

const FILE_DRIVERS: ReadonlySet<string> = new Set(['file', 'host_device', 'host_cdrom']);
const NBD_PORT = '10809';
/** Options that describe how an image is used, not which image it is. */
const USE_ONLY =
  /^(node-name|driver|id|if|index|bus|unit|media|format|snapshot|readonly|read-only|auto-read-only|force-share|cache|aio|discard|detect-zeroes|rerror|werror|locking|copy-on-read|throttling|active|addr)(\.|$)/;
const MAX_DEPTH = 32;

/** @param text the value of `file=`, or what QEMU shows as the file of a node */
export function placeOfName(text: string, nodes: NamedNodes = new Map()): ImagePlace {
  if (text.startsWith('json:')) return placeOfJson(text, nodes);
  const plain = /^(?:file|host_device|host_cdrom):(.*)$/s.exec(text)?.[1];
  if (plain !== undefined) return { kind: 'file', path: plain };
  if (text.startsWith('nbd:') && !text.startsWith('nbd://')) return placeOfOldNbd(text.slice('nbd:'.length));
  if (/^nbd(\+[a-z]+)?:\/\//.test(text)) return placeOfNbdUrl(text);
  if (text.startsWith('fat:')) return placeOfFat(text);
  const driver = /^([a-z][a-z0-9+-]*):/.exec(text)?.[1];
  if (driver === undefined) return { kind: 'file', path: text };
  if (/^null-(co|aio)$/.test(driver)) return { kind: 'other', driver, options: {} };
  return { kind: 'other', driver, options: { name: normalUrl(text) } };
}

/** @param nodes the nodes that references by name may mean */
export function placeOfNode(options: NodeOptions, nodes: NamedNodes = new Map(), depth = 0): ImagePlace {
  const { file, filename } = options;
  const driver = textOf(options['driver']);
  if (depth > MAX_DEPTH) return { kind: 'other', driver: driver ?? '', options: {} };
  if (typeof file === 'object') return placeOfNode(file, nodes, depth + 1);
  if (typeof file === 'string') {
    const named = nodes.get(file);
    return named === undefined ? placeOfName(file, nodes) : placeOfNode(named, nodes, depth + 1);
  }
  if (typeof filename === 'string')
    return driver !== undefined && FILE_DRIVERS.has(driver)
      ? { kind: 'file', path: filename }
      : placeOfName(filename, nodes);
  if (typeof options['url'] === 'string') return placeOfName(options['url'], nodes);
  if (driver === 'nbd') return placeOfNbdOptions(options);
  return { kind: 'other', driver: driver ?? '', options: ownOptions(options) };
}

/** Dotted keys as a tree: `file.driver=nbd` is a member of `file`. */
export function nodeOptionsOf(properties: readonly Property[]): NodeOptions {
  const tree: Record<string, NodeValue> = {};
  for (const { key, value } of properties) {
    const path = key.split('.');
    const last = path.pop()!;
    let inner = tree;
    for (const name of path) {
      const next = inner[name];
      const child: Record<string, NodeValue> = typeof next === 'object' ? { ...next } : {};
      inner[name] = child;
      inner = child;
    }
    inner[last] = value;
  }
  return tree;
}

/** @param cwd the folder from which relative paths are resolved */
export function isSamePlace(a: ImagePlace, b: ImagePlace, cwd: string): boolean {
  if (a.kind === 'file' && b.kind === 'file')
    return isSameFile(path.resolve(cwd, a.path), path.resolve(cwd, b.path));
  if (a.kind === 'nbd' && b.kind === 'nbd')
    return a.export === b.export && isSameServer(a.server, b.server, cwd);
  if (a.kind !== 'other' || b.kind !== 'other' || a.driver !== b.driver) return false;
  // One of them may leave out a default.
  return Object.entries(a.options).every(([key, value]) => (b.options[key] ?? value) === value);
}

/** For messages. */
export function describePlace(place: ImagePlace): string {
  if (place.kind === 'file') return place.path;
  if (place.kind === 'nbd') return `nbd ${place.server}${place.export === '' ? '' : ` (${place.export})`}`;
  const options = Object.entries(place.options).map(([key, value]) => `${key}=${value}`);
  return [place.driver, ...options].join(' ');
}

function placeOfJson(text: string, nodes: NamedNodes): ImagePlace {
  try {
    return placeOfNode(asOptions(JSON.parse(text.slice('json:'.length)) as unknown), nodes);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return { kind: 'other', driver: 'json', options: { name: text } };
  }
}

/** Every leaf as text, as in the command line. */
function asOptions(value: unknown): NodeOptions {
  const members = Object.entries(typeof value === 'object' && value !== null ? value : {}) as [
    string,
    unknown,
  ][];
  return Object.fromEntries(
    members.map(([key, inner]): [string, NodeValue] => {
      if (typeof inner === 'object' && inner !== null) return [key, asOptions(inner)];
      return [key, typeof inner === 'boolean' ? (inner ? 'on' : 'off') : String(inner)];
    }),
  );
}

/** `unix:PATH[:exportname=NAME]`, `HOST:PORT[:exportname=NAME]` */
function placeOfOldNbd(text: string): ImagePlace {
  const [, address = text, name = ''] = /^(.*?)(?::exportname=(.*))?$/s.exec(text) ?? [];
  if (address.startsWith('unix:')) return nbd(unixServer(address.slice('unix:'.length)), name);
  const [, host = address, port = ''] = /^(\[.*\]|[^:]*):?(\d*)$/.exec(address) ?? [];
  return nbd(inetServer(host, port), name);
}

function placeOfNbdUrl(text: string): ImagePlace {
  const [, scheme = '', host = '', port = '', rest = ''] =
    /^nbd(\+[a-z]+)?:\/\/(\[[^\]]*\]|[^:/?]*)(?::(\d*))?(.*)$/s.exec(text) ?? [];
  const question = rest.indexOf('?');
  const name = decoded((question === -1 ? rest : rest.slice(0, question)).replace(/^\//, ''));
  if (scheme !== '+unix') return nbd(inetServer(host, port), name);
  const socket =
    question === -1 ? undefined : /(?:^|[&;])socket=([^&;]*)/.exec(rest.slice(question + 1))?.[1];
  return nbd(unixServer(decoded(socket ?? '')), name);
}

function placeOfNbdOptions(options: NodeOptions): ImagePlace {
  const name = textOf(options['export']) ?? '';
  const server = typeof options['server'] === 'object' ? options['server'] : options;
  const file = textOf(server['path']);
  if (file !== undefined) return nbd(unixServer(file), name);
  return nbd(inetServer(textOf(server['host']) ?? '', textOf(server['port']) ?? ''), name);
}

/** `fat:[12:|16:|32:][floppy:][rw:][label=…:]DIR` */
function placeOfFat(text: string): ImagePlace {
  const dir = /^fat:(?:(?:12|16|32|floppy|rw|label=[^:]*):)*(.*)$/s.exec(text)![1]!;
  return { kind: 'other', driver: 'vvfat', options: { dir } };
}

function nbd(server: string, name: string): ImagePlace {
  return { kind: 'nbd', server, export: name };
}

function unixServer(file: string): string {
  return `unix:${file}`;
}

function inetServer(host: string, port: string): string {
  const name = host.replace(/^\[|\]$/g, '').toLowerCase();
  return `${name === 'localhost' ? '127.0.0.1' : name}:${port === '' ? NBD_PORT : port}`;
}

function isSameServer(a: string, b: string, cwd: string): boolean {
  const [first, second] = [a, b].map((server) => /^unix:(.*)$/s.exec(server)?.[1]);
  if (first === undefined || second === undefined) return a === b;
  return isSameFile(path.resolve(cwd, first), path.resolve(cwd, second));
}

/** Compares names, and what they lead to if that is accessible. */
function isSameFile(a: string, b: string): boolean {
  if (a === b) return true;
  try {
    if (realpathSync(a) === realpathSync(b)) return true;
    const [first, second] = [statSync(a), statSync(b)];
    return first.dev === second.dev && first.ino === second.ino;
  } catch {
    return false;
  }
}

function ownOptions(options: NodeOptions): Record<string, string> {
  const own: Record<string, string> = {};
  const collect = (inner: NodeOptions, prefix: string): void => {
    for (const [key, value] of Object.entries(inner)) {
      const name = prefix === '' ? key : `${prefix}.${key}`;
      if (USE_ONLY.test(name)) continue;
      if (typeof value === 'object') collect(value, name);
      else own[name] = value;
    }
  };
  collect(options, '');
  return own;
}

function textOf(value: NodeValue | undefined): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

/** Scheme and host are case-insensitive, and an empty path is the root. */
function normalUrl(text: string): string {
  const [, scheme, host, rest] = /^([a-z0-9+-]+:\/\/)([^/?]*)(.*)$/is.exec(text) ?? [];
  if (scheme === undefined) return text;
  return `${scheme.toLowerCase()}${host!.toLowerCase()}${rest === '/' ? '' : rest!}`;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
