/** Options that cannot be repeated in another process, because they use something that only the old one had. */
import { propertiesOf, propertyOf, type Option } from './command-line.js';

const DESCRIPTOR_KEY = /(^|[._])fds?$|^vhostfds?$/;
/** Includes processes identified by number, and paths inside of other names: `file:/proc/self/fd/3`. */
const DESCRIPTOR_PATH =
  /(^|[^\w/])(\/dev\/fdset\/|\/dev\/fd\/|\/proc\/([0-9]+|self|thread-self)\/(task\/[0-9]+\/)?fd\/)|^fd:/;
/** Options whose value is text for the guest, except for these keys. */
const FREE_TEXT: Readonly<Record<string, readonly string[]>> = {
  append: [],
  uuid: [],
  'prom-env': [],
  fw_cfg: ['file'],
  smbios: ['file'],
};

/** @returns each with the reason, as a clause of a sentence; the user of an `-add-fd` is reported with it */
export function unrepeatableOptions(options: readonly Option[]): string[] {
  const sets = options.flatMap((option) =>
    option.name === 'add-fd' ? (propertyOf(option, 'set') ?? []) : [],
  );
  return options.flatMap((option) => {
    if (option.name !== 'add-fd' && sets.some((set) => takesFrom(option, set))) return [];
    const why = whyNot(option);
    return why === undefined ? [] : [`-${option.name} ${option.value ?? ''}`.trim() + ` ${why}`];
  });
}

/** Whether the option uses this set, and nothing else of the old process. */
function takesFrom({ name, value = '' }: Option, set: string): boolean {
  const withoutSet = value.replace(new RegExp(`/dev/fdset/${set}(?!\\d)`, 'g'), '');
  return withoutSet !== value && whyNot({ name, value: withoutSet }) === undefined;
}

function whyNot(option: Option): string | undefined {
  const { name, value = '' } = option;
  if (name === 'readconfig')
    return 'reads options from a file that was changed or removed since, or that vmckpt does not understand';
  if (name === 'chroot' || (name === 'run-with' && propertiesOf(option).some(({ key }) => key === 'chroot')))
    return 'cuts QEMU off from the sockets of a restore';
  return usesDescriptor(option, value) ? 'uses a file descriptor of the old process' : undefined;
}

function usesDescriptor(option: Option, value: string): boolean {
  const { name } = option;
  if (name === 'add-fd') return true;
  const keys = Object.hasOwn(FREE_TEXT, name) ? FREE_TEXT[name] : undefined;
  const properties = propertiesOf(option);
  if (keys !== undefined)
    return properties.some((property) => keys.includes(property.key) && namesDescriptor(property.value));
  // A value without keys is a name: `-bios OVMF.fd`.
  const isKey = (key: string) => value.startsWith('{') || value.includes(`${key}=`);
  return (
    namesDescriptor(value) ||
    properties.some(
      ({ key, value: text }) =>
        (DESCRIPTOR_KEY.test(key) && isKey(key)) ||
        namesDescriptor(text) ||
        (key.endsWith('addr.type') && text === 'fd'),
    )
  );
}

/** Whether the path is one of QEMU's own open files, even with redundant slashes and dots: `/proc//self/./fd/3`. */
export function namesDescriptor(text: string): boolean {
  return DESCRIPTOR_PATH.test(text.replace(/\/(\.?\/)+/g, '/'));
}
