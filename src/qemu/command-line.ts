/**
 * A QEMU command line as a list of options, in their order: the order decides bus addresses, so it is kept.
 * Both `-opt` and `--opt` are understood; a bare word is a disk image, as QEMU reads it.
 * Source: the option list of qemu-system(1), versions 7.2 to 10.
 */
import { VmckptError } from '../errors.js';

export interface Option {
  /** Without dashes: `device`. */
  readonly name: string;
  readonly value?: string;
}

/** One `key=value` of an option's value; `on` stands for a key without value. */
export interface Property {
  readonly key: string;
  readonly value: string;
}

/** Options that stand alone. */
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

/** The key that an option's first word belongs to when it has none. */
const IMPLIED_KEYS: Readonly<Record<string, string>> = {
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
  sandbox: 'enable',
  trace: 'enable',
  plugin: 'file',
  icount: 'shift',
  cpu: 'model',
};

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
    // An option of a QEMU newer than these tables: take what does not look like another option for its value.
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

/** The properties of an option's value: `key=value,…` with `,,` for a comma, or JSON, whose members become `a.b`. */
export function propertiesOf({ name, value = '' }: Option): Property[] {
  if (value.startsWith('{')) return flatten(parseJson(name, value));
  return parseProperties(value, IMPLIED_KEYS[name]);
}

/** The last property called `key` wins, as in QEMU. */
export function propertyOf(option: Option, key: string): string | undefined {
  return propertiesOf(option).findLast((property) => property.key === key)?.value;
}

export function parseProperties(text: string, impliedKey?: string): Property[] {
  if (text === '') return [];
  return splitAtCommas(text).map((word, index) => {
    const equals = word.indexOf('=');
    if (equals !== -1) return { key: word.slice(0, equals), value: word.slice(equals + 1) };
    if (index === 0 && impliedKey !== undefined) return { key: impliedKey, value: word };
    return { key: word, value: 'on' };
  });
}

/** The opposite of `parseProperties`; a leading implied key is left out where its value allows. */
export function formatProperties(properties: readonly Property[], impliedKey?: string): string {
  const words = properties.map(({ key, value }, index) => {
    const text = value.replaceAll(',', ',,');
    return index === 0 && key === impliedKey && text !== '' && !text.includes('=') ? text : `${key}=${text}`;
  });
  return words.join(',');
}

/** The option with properties replaced or added (`undefined` removes): the others stay as and where they are. */
export function withProperties(
  option: Option,
  changes: Readonly<Record<string, string | undefined>>,
): Option {
  const kept = propertiesOf(option).filter(({ key }) => !(key in changes) || changes[key] !== undefined);
  const changed = kept.map(({ key, value }) => ({ key, value: changes[key] ?? value }));
  const added = Object.entries(changes).flatMap(([key, value]) =>
    value === undefined || kept.some((property) => property.key === key) ? [] : [{ key, value }],
  );
  return { name: option.name, value: formatProperties([...changed, ...added], IMPLIED_KEYS[option.name]) };
}

/** The option with values of its properties changed; JSON stays JSON. Unchanged values leave it as it is, to the letter. */
export function mapValues(option: Option, change: (property: Property) => string): Option {
  const { name, value = '' } = option;
  const properties = propertiesOf(option);
  const changed = properties.map((property) => ({ key: property.key, value: change(property) }));
  if (changed.every((property, index) => property.value === properties[index]!.value)) return option;
  if (!value.startsWith('{')) return { name, value: formatProperties(changed, IMPLIED_KEYS[name]) };
  const values = changed.map((property) => property.value);
  return { name, value: JSON.stringify(withLeaves(parseJson(name, value), values)) };
}

export function isOn(value: string | undefined): boolean {
  return value === 'on' || value === 'yes' || value === 'true' || value === 'y';
}

function splitAtCommas(text: string): string[] {
  const words = [''];
  for (let index = 0; index < text.length; index++) {
    const character = text[index]!;
    if (character !== ',') words[words.length - 1] += character;
    else if (text[index + 1] === ',') {
      words[words.length - 1] += ',';
      index++;
    } else words.push('');
  }
  return words;
}

function parseJson(name: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new VmckptError('COMMAND_LINE_UNSUPPORTED', `-${name} holds JSON that cannot be parsed`, { cause });
  }
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

/** The same tree with its leaves replaced, in the order of `flatten`; takes them off `values`. */
function withLeaves(value: unknown, values: string[]): unknown {
  if (Array.isArray(value)) return value.map((item) => withLeaves(item, values));
  if (isObject(value))
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, withLeaves(inner, values)]));
  const [{ value: before } = { value: '' }] = flatten(value);
  const text = values.shift()!;
  if (text === before) return value;
  return typeof value === 'number' ? Number(text) : text;
}
