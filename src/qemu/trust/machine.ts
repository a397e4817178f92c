/** The guest's own hardware, and what the guest gets to read. */
import { propertyOf } from '../command-line.js';
import { EMULATED_DEVICES, GUEST_PROPERTIES } from '../emulated-devices.js';
import { keys, matching, oneOf, properties, text, type Check, type ValueCheck } from './grammar.js';
import { firmware, ordinaryFile, ordinaryFiles } from './host-files.js';

export const machine = properties({
  keys: new Map([
    ...keys(`type usb graphics dump-guest-core mem-merge nvdimm smm pit pic sata smbus i8042 ioapic2 isa-serial pcie
      vmport hpet rtc acpi wdat fd-bootchk default-bus-bypass-iommu auto-kernel-cmdline max-ram-below-4g max-fw-size
      smbios-entry-point-type suppress-vmdesc kernel-irqchip kernel_irqchip kvm-shadow-mem memory-backend pflash0
      pflash1 phandle-start bus-lock-ratelimit aux-ram-share hmat x-oem-id x-oem-table-id x-south-bridge
      x-change-vmfd-on-reset`),
    ...keys('accel', matching(/^(kvm|tcg)(:(kvm|tcg))*$/)),
  ]),
});

export const accelerator = properties({
  keys: new Map([
    ...keys('accel', oneOf('kvm tcg')),
    ...keys(`thread tb-size split-wx one-insn-per-tb kernel-irqchip kvm-shadow-mem dirty-ring-size eager-split-size
      notify-vmexit notify-window honor-guest-pat`),
  ]),
});

const PROPERTIES = [...keys([...GUEST_PROPERTIES].join(' ')), ...keys('romfile', firmware)];
const TOPOLOGY = keys('socket-id die-id module-id cluster-id core-id thread-id node-id apic-id');
const DEVICE = properties({
  keys: new Map([...PROPERTIES, ...TOPOLOGY]),
  lists: 'iothread-vq-mapping outputs',
});
/** `x86_64-cpu`, hotplugged or cold: its features are switches and numbers. */
const CPU_DEVICE = /^[\w.-]+-x86_64-cpu(,(?!driver=)[a-z][\w.-]*=[\w.-]*)*$/;

export const device: Check = (option, where) => {
  const driver = propertyOf(option, 'driver') ?? '';
  if (!EMULATED_DEVICES.some((pattern) => pattern.test(driver)))
    return `${driver} is not known as a purely emulated device`;
  if (CPU_DEVICE.test(option.value ?? '')) return undefined;
  return DEVICE(option, where);
};

const CHIPSET = `disable_s3 disable_s4 s4_val lost_tick_policy memory-hotplug-support noreboot tco
  acpi-pci-hotplug-with-bridge-support acpi-root-pci-hotplug`;
const GLOBAL_PROPERTIES = new Map([...PROPERTIES, ...keys(CHIPSET)]);
const GLOBAL = properties({
  keys: new Map([
    ...keys('driver value'),
    ...keys('property', (name) =>
      GLOBAL_PROPERTIES.has(name) ? undefined : `${name} may reach into the host`,
    ),
  ]),
});

/** `driver.property=value`, where everything after the sign is the value, or the same in three properties. */
export const globalProperty: Check = (option, where) => {
  const { value = '' } = option;
  const [, property, set] = /^[\w-]+\.([^=]+)=(.*)$/s.exec(value) ?? [];
  if (property === undefined)
    return propertyOf(option, 'property') === 'romfile' ? 'names a file' : GLOBAL(option, where);
  const check = GLOBAL_PROPERTIES.get(property);
  return check === undefined ? `${property} may reach into the host` : check(set!, where);
};

const OBJECTS: ReadonlyMap<string, Check> = new Map(
  Object.entries({
    'memory-backend-ram': memoryBackend(),
    'memory-backend-memfd': memoryBackend('hugetlb hugetlbsize seal'),
    iothread: named(
      'poll-max-ns poll-grow poll-shrink poll-weight aio-max-batch thread-pool-min thread-pool-max',
    ),
    'main-loop': named('aio-max-batch thread-pool-min thread-pool-max'),
    'throttle-group': named(throttleLimits()),
    'rng-builtin': named(),
    'rng-random': named('', keys('filename', oneOf('/dev/random /dev/urandom /dev/hwrng'))),
    secret: named('format keyid iv', keys('data', text)),
  }),
);

function named(names = '', others: readonly [string, ValueCheck][] = []): Check {
  return properties({ keys: new Map([...keys(`qom-type id ${names}`), ...others]), lists: 'host-nodes' });
}

function memoryBackend(names = ''): Check {
  const common = `size share merge dump prealloc prealloc-threads prealloc-context policy reserve host-nodes`;
  return named(`${common} x-use-canonical-path-for-ramblock-id ${names}`);
}

function throttleLimits(): string {
  const kinds = ['bps', 'iops'].flatMap((unit) =>
    ['total', 'read', 'write'].map((kind) => `${unit}-${kind}`),
  );
  return kinds
    .flatMap((kind) =>
      ['', '-max', '-max-length'].flatMap((end) => [`x-${kind}${end}`, `limits.${kind}${end}`]),
    )
    .concat('x-iops-size', 'limits.iops-size')
    .join(' ');
}

export const object: Check = (option, where) => {
  const type = propertyOf(option, 'qom-type') ?? '';
  const check = OBJECTS.get(type);
  if (check !== undefined) return check(option, where);
  if (type.startsWith('memory-backend-')) return 'opens a file of the host for writing';
  return `${type} is not known to be harmless`;
};

export const smbios = properties({
  keys: new Map([
    ...keys(
      `type vendor version date release uefi vm manufacturer product serial uuid sku family asset location sock_pfx part
      speed max-speed current-speed processor-family processor-id value designation kind instance pcidev bank loc_pfx
      internal_reference external_reference connector_type port_type`,
      text,
    ),
    ...keys('file path', ordinaryFile),
  ]),
  lists: 'value path',
});

export const acpiTable = properties({
  keys: new Map([
    ...keys('sig rev oem_id oem_table_id oem_rev asl_compiler_id asl_compiler_rev'),
    ...keys('file data', ordinaryFiles),
  ]),
});

export const firmwareConfig = properties({
  keys: new Map([...keys('name string', text), ...keys('gen_id'), ...keys('file', ordinaryFile)]),
});
