/**
 * A QEMU command line as a list of options. Their order decides bus addresses, so it is kept. Both `-opt` and `--opt`
 * are understood; a bare word is a disk image, as in QEMU. Source: the option list of qemu-system(1), versions 7.2 to
 * 10.
 */
import { VmckptError } from '../errors.js';

export interface Option {
  /** Without dashes: `device`. */
  readonly name: string;
  readonly value?: string;
}

/** One `key=value` of an option's value. */
export interface Property {
  readonly key: string;
  readonly value: string;
}

/** Options without a value. */
const FLAGS: ReadonlySet<string> = new Set(
  `h help version snapshot usb nographic portrait full-screen win2k-hack no-fd-bootchk no-acpi no-hpet mem-prealloc
  audio-help singlestep one-insn-per-tb preconfig S s enable-kvm no-kvm xen-attach xen-domid-restrict no-reboot
  no-shutdown daemonize only-migratable nodefaults semihosting old-param no-user-config nodefconfig async-teardown
  enable-sync-profile no-frame alt-grab ctrl-grab no-quit sdl curses enable-fips perfmap jitdump`.split(
    /\s+/,
  ),
);

/** Options followed by a value, whatever it looks like. */
const WITH_VALUE: ReadonlySet<string> = new Set(
  `machine M cpu accel smp numa add-fd set global boot m mem-path k audio audiodev soundhw device name uuid fda fdb hda
  hdb hdc hdd cdrom blockdev drive mtdblock sd pflash fsdev virtfs iscsi usbdevice display spice rotate vga g vnc
  acpitable smbios netdev nic net chardev tpmdev bios kernel append initrd dtb shim compat fw_cfg serial parallel
  monitor qmp qmp-pretty mon debugcon pidfile overcommit gdb d D dfilter seed L xen-domid action loadvm option-rom
  rtc icount watchdog watchdog-action echr incoming chroot runas run-with prom-env semihosting-config sandbox
  readconfig writeconfig trace plugin msg dump-vmstate object virtioconsole balloon realtime tb-size`.split(
    /\s+/,
  ),
);

/** The key of an option's first word, if the word has no key of its own. */
const IMPLIED_KEYS: ReadonlyMap<string, string> = new Map(
  Object.entries({
    machine: 'type',
    M: 'type',
    accel: 'accel',
    device: 'driver',
    object: 'qom-type',
    blockdev: 'driver',
    chardev: 'backend',
    netdev: 'type',
    nic: 'type',
    net: 'type',
    mon: 'chardev',
    display: 'type',
    vnc: 'vnc',
    m: 'size',
    smp: 'cpus',
    boot: 'order',
    name: 'guest',
    numa: 'type',
    fsdev: 'fsdriver',
    virtfs: 'fsdriver',
    tpmdev: 'type',
    audiodev: 'driver',
    audio: 'driver',
    fw_cfg: 'name',
    'option-rom': 'romfile',
    sandbox: 'enable',
    trace: 'enable',
    plugin: 'file',
    icount: 'shift',
    cpu: 'model',
  }),
);

/** @param argv without the program's own name. @throws VmckptError COMMAND_LINE_UNSUPPORTED when a value is missing */
export function parseCommandLine(argv: readonly string[]): Option[] {
  const options: Option[] = [];
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index]!;
    if (!word.startsWith('-') || word === '-') {
      options.push({ name: 'hda', value: word });
      continue;
    }
    const name = word.slice(word.startsWith('--') ? 2 : 1);
    const next = argv[index + 1];
    // An option of a newer QEMU: if the next word does not look like an option, it counts as the value.
    const guessed = !FLAGS.has(name) && next !== undefined && !next.startsWith('-');
    if (!WITH_VALUE.has(name) && !guessed) {
      options.push({ name });
      continue;
    }
    if (next === undefined)
      throw new VmckptError('COMMAND_LINE_UNSUPPORTED', `QEMU's option -${name} has no value`);
    options.push({ name, value: next });
    index++;
  }
  return options;
}

export function toArgv(options: readonly Option[]): string[] {
  return options.flatMap(({ name, value }) => (value === undefined ? [`-${name}`] : [`-${name}`, value]));
}

/** Options that accept JSON. For all others a brace is an ordinary character. */
const TAKE_JSON: ReadonlySet<string> = new Set('device object blockdev netdev display audiodev'.split(' '));

/** Options that QEMU parses with its newer grammar, in which `id` is an ordinary key. */
const NEWER_GRAMMAR: ReadonlySet<string> = new Set(
  'object blockdev display audiodev audio machine M'.split(' '),
);

/** The properties of an option's value: `key=value,…` with `,,` for a comma, or JSON, whose members become `a.b`. */
export function propertiesOf(option: Option): Property[] {
  const { name, value = '' } = option;
  if (isJson(option)) return flatten(parseJson(name, value));
  return parseProperties(value, impliedKeyOf(name));
}

/** The key of a first word that has none. */
export function impliedKeyOf(name: string): string | undefined {
  return IMPLIED_KEYS.get(name);
}

export function isJson({ name, value = '' }: Option): boolean {
  return TAKE_JSON.has(name) && value.startsWith('{');
}

export function propertyOf(option: Option, key: string): string | undefined {
  return valueIn(propertiesOf(option), key, key === 'id' && !NEWER_GRAMMAR.has(option.name));
}

/** As in QEMU: the last `key` wins, but the first `id`. */
export function valueIn(
  properties: readonly Property[],
  key: string,
  isFirst = key === 'id',
): string | undefined {
  const isCalledSo = (property: Property) => property.key === key;
  return (isFirst ? properties.find(isCalledSo) : properties.findLast(isCalledSo))?.value;
}

/** Exactly as in QEMU: a key ends at `=` or a comma; a word alone is `on`, or `off` after `no` (`nowait`). */
export function parseProperties(text: string, impliedKey?: string): Property[] {
  const properties: Property[] = [];
  const word = /([^=,]*)(=?)/y;
  const value = /(?:[^,]|,,)*/y;
  const valueAt = (at: number): string => {
    value.lastIndex = at;
    return value.exec(text)![0];
  };
  for (let at = 0; at < text.length; at++) {
    word.lastIndex = at;
    const [head, key = '', equals] = word.exec(text)!;
    const isImplied = equals === '' && at === 0 && impliedKey !== undefined;
    const written = isImplied ? valueAt(at) : equals === '' ? '' : valueAt(at + head.length);
    at += isImplied ? written.length : head.length + written.length;
    if (equals === '' && !isImplied) properties.push(flag(key));
    else properties.push({ key: isImplied ? impliedKey : key, value: written.replaceAll(',,', ',') });
  }
  return properties;
}

function flag(word: string): Property {
  return word.startsWith('no') ? { key: word.slice(2), value: 'off' } : { key: word, value: 'on' };
}

/** The opposite of `parseProperties`; leaves out a leading implied key if its value allows that. */
export function formatProperties(properties: readonly Property[], impliedKey?: string): string {
  const words = properties.map(({ key, value }, index) => {
    const text = value.replaceAll(',', ',,');
    return index === 0 && key === impliedKey && text !== '' && !text.includes('=') ? text : `${key}=${text}`;
  });
  return words.join(',');
}

/** An option with these properties, in this order. */
export function optionOf(name: string, properties: readonly Property[]): Option {
  return { name, value: formatProperties(properties, impliedKeyOf(name)) };
}

/** The option with properties replaced or added (`undefined` removes). The others stay unchanged and in place. */
export function withProperties(
  option: Option,
  changes: Readonly<Record<string, string | undefined>>,
): Option {
  const kept = propertiesOf(option).filter(({ key }) => !(key in changes) || changes[key] !== undefined);
  const changed = kept.map(({ key, value }) => ({ key, value: changes[key] ?? value }));
  const added = Object.entries(changes).flatMap(([key, value]) =>
    value === undefined || kept.some((property) => property.key === key) ? [] : [{ key, value }],
  );
  return optionOf(option.name, [...changed, ...added]);
}

/** The option with changed values; JSON stays JSON. If no value changes, the option stays as it was written. */
export function mapValues(option: Option, change: (property: Property) => string): Option {
  const { name, value = '' } = option;
  const properties = propertiesOf(option);
  const changed = properties.map((property) => ({ key: property.key, value: change(property) }));
  if (changed.every((property, index) => property.value === properties[index]!.value)) return option;
  if (!isJson(option)) return { name, value: formatProperties(changed, impliedKeyOf(name)) };
  const values = changed.map((property) => property.value);
  return { name, value: JSON.stringify(withLeaves(parseJson(name, value), values)) };
}

export function isOn(value: string | undefined): boolean {
  return value === 'on' || value === 'yes' || value === 'true' || value === 'y';
}

function parseJson(name: string, text: string): unknown {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw new VmckptError('COMMAND_LINE_UNSUPPORTED', `-${name} holds JSON that cannot be parsed`, { cause });
  }
  // QEMU refuses such an option.
  if (writtenMembers(text) !== membersOf(parsed))
    throw new VmckptError('COMMAND_LINE_UNSUPPORTED', `-${name} holds JSON with the same key twice`);
  return parsed;
}

function writtenMembers(json: string): number {
  return [...json.matchAll(/"(?:[^"\\]|\\.)*"\s*(:?)/gs)].filter(([, colon]) => colon === ':').length;
}

function membersOf(value: unknown): number {
  if (!isObject(value)) return 0;
  const inner = Object.values(value);
  const own = Array.isArray(value) ? 0 : inner.length;
  return inner.reduce<number>((sum, member) => sum + membersOf(member), own);
}

function flatten(value: unknown, prefix = ''): Property[] {
  if (Array.isArray(value)) return value.flatMap((item, index) => flatten(item, `${prefix}.${index}`));
  if (isObject(value)) {
    return Object.entries(value).flatMap(([key, inner]) =>
      flatten(inner, prefix === '' ? key : `${prefix}.${key}`),
    );
  }
  if (typeof value === 'boolean') return [{ key: prefix, value: value ? 'on' : 'off' }];
  return [{ key: prefix, value: String(value) }];
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}

/** The same tree with its leaves replaced, in the order of `flatten`; removes them from `values`. */
function withLeaves(value: unknown, values: string[]): unknown {
  if (Array.isArray(value)) return value.map((item) => withLeaves(item, values));
  if (isObject(value))
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, withLeaves(inner, values)]));
  const [{ value: before } = { value: '' }] = flatten(value);
  const text = values.shift()!;
  if (text === before) return value;
  return typeof value === 'number' ? Number(text) : text;
}
