/** Consoles and monitors on a socket or terminal that only this host's user can reach. */
import { characterDeviceOf } from '../character-device.js';
import type { Option } from '../command-line.js';
import { keys, matching, oneOf, properties, type Check, type Keys } from './grammar.js';
import { ownSocket } from './host-files.js';

const COMMON = keys('backend id mux');
const backend = (names: string): Keys => new Map([...COMMON, ...keys(names)]);

const SOCKET: Keys = new Map([
  ...backend('reconnect reconnect-ms delay'),
  ...keys('server wait', oneOf('on off')),
  ...keys('path', ownSocket),
]);
const BACKENDS: ReadonlyMap<string, Keys> = new Map([
  ...['none', 'null', 'pty', 'msmouse'].map((name): [string, Keys] => [name, backend('id')]),
  ['ringbuf', backend('size')],
  ['stdio', backend('signal')],
  ['spicevmc', backend('name debug')],
  ['vc', backend('width height cols rows')],
  ['socket', SOCKET],
]);

export const console: Check = (option, where) => {
  const device = characterDeviceOf(option);
  if (device === undefined) return matching(/^chardev:[\w.-]+$/)(option.value ?? '', where);
  const { path: file, server } = device;
  const isMonitor = device.withMonitor || !['serial', 'parallel', 'debugcon'].includes(option.name);
  const known = BACKENDS.get(device.backend);
  if (known === undefined) return `opens ${file ?? device.backend} on the host`;
  if (device.backend === 'vc' && isMonitor) return "shows QEMU's monitor on the display";
  if (known === SOCKET && file === undefined)
    return isMonitor ? "opens QEMU's monitor to the network" : 'opens a network connection';
  if (known === SOCKET && !server) return `connects to another program's socket ${file}`;
  const written = asChardev(option);
  if (written === undefined) return 'is not written in the one way that is judged';
  const grammar = properties({ keys: known, words: 'server nowait wait nodelay' });
  return grammar({ name: 'chardev', value: written }, where);
};

/** Translates the older notation to that of `-chardev`. */
function asChardev({ name, value = '' }: Option): string | undefined {
  if (name === 'chardev') return value;
  const word = value.replace(/^mon:/, '');
  if (/^(none|null|stdio|pty|msmouse|vc)$/.test(word)) return word;
  if (/^vc:\d+C?x\d+C?$/.test(word)) return 'vc';
  return /^unix:[^=,]+(,|$)/.test(word) ? `socket,path=${word.slice('unix:'.length)}` : undefined;
}

/** The guest's display, reachable from this host only. */
export const vnc = properties({
  keys: new Map([
    [
      'vnc',
      (value, where) => {
        if (value === 'none' || /^(127\.0\.0\.1|localhost|\[?::1\]?):\d+$/.test(value)) return undefined;
        if (value.startsWith('unix:')) return ownSocket(value.slice('unix:'.length), where);
        return "opens the guest's display to the network";
      },
    ],
    ...keys('share password lossy non-adaptive power-control to'),
  ]),
  words: 'password lossy',
});

const LOCAL_DISPLAY = properties({
  keys: new Map([
    ...keys('type', oneOf('none gtk sdl curses')),
    ...keys(`gl full-screen window-close show-cursor grab-on-hover zoom-to-fit show-tabs show-menubar
      keep-aspect-ratio scale grab-mod`),
  ]),
});

export const display: Check = (option, where) => {
  const settings = /^vnc=(.*)$/s.exec(option.value ?? '')?.[1];
  return settings === undefined ? LOCAL_DISPLAY(option, where) : vnc({ name: 'vnc', value: settings }, where);
};
