/** Disks that a guest may read: ordinary files that it cannot write to. */
import { isOn } from '../command-line.js';
import { keys, oneOf, properties, type Check, type ValueCheck, type Where } from './grammar.js';
import { ordinaryFile } from './host-files.js';

const NO_IMAGE = /^null-(co|aio):\/\/$/;

const image: ValueCheck = (value, where) => (NO_IMAGE.test(value) ? undefined : ordinaryFile(value, where));
const driver = oneOf('file raw qcow2 qed vdi vhdx vmdk vpc null-co null-aio throttle copy-on-read');

const IMAGE_KEYS = ['file', 'filename', 'file.filename'];
/** Other properties open further files or connections. */
const COMMON = [
  ...IMAGE_KEYS.flatMap((key) => keys(key, image)),
  ...keys('driver file.driver', driver),
  ...keys(`read-only auto-read-only discard detect-zeroes node-name cache.direct cache.no-flush file.node-name
    file.locking file.aio file.read-only file.auto-read-only file.discard file.cache.direct file.cache.no-flush
    locking aio size offset throttle-group cache-size l2-cache-size refcount-cache-size cache-clean-interval
    lazy-refcounts overlap-check pass-discard-request pass-discard-snapshot read-zeroes latency-ns`),
] as const;

type Get = (key: string) => string | undefined;

function writtenImage(get: Get, isReadOnly: boolean): string | undefined {
  const written = IMAGE_KEYS.map(get).find((value) => value !== undefined && !NO_IMAGE.test(value));
  return isReadOnly || written === undefined ? undefined : `lets the guest write to ${written}`;
}

const LIMITS = ['bps', 'iops'].flatMap((unit) =>
  ['', '_rd', '_wr', '_max', '_rd_max', '_wr_max', '_size', '_max_length'].map((kind) => `${unit}${kind}`),
);
const THROTTLING = ['bps', 'iops'].flatMap((unit) =>
  ['total', 'read', 'write'].flatMap((kind) =>
    ['', '-max', '-max-length'].map((end) => `throttling.${unit}-${kind}${end}`),
  ),
);

export const drive = properties({
  keys: new Map([
    ...COMMON,
    ...keys('format', driver),
    ...keys('media', oneOf('disk cdrom')),
    ...keys('readonly snapshot', oneOf('on off')),
    ...keys('id if index bus unit cache rerror werror copy-on-read throttling.group throttling.iops-size'),
    ...keys([...LIMITS, ...THROTTLING].join(' ')),
  ]),
  further: (get, { discardsWrites }) => {
    const snapshot = get('snapshot') ?? (discardsWrites ? 'on' : 'off');
    const isReadOnly = [get('readonly'), get('read-only'), snapshot].some(isOn) || get('media') === 'cdrom';
    return writtenImage(get, isReadOnly);
  },
});

export const blockdev = properties({
  keys: new Map([...COMMON, ...keys('force-share'), ...keys('backing', oneOf('null'))]),
  further: (get) => writtenImage(get, isOn(get('read-only'))),
});

/** `-hda FILE` and similar: the whole value is the name. */
export const shortDisk: Check = ({ name, value = '' }, where: Where) => {
  const isReadOnly = name === 'cdrom' || (where.discardsWrites && name !== 'pflash');
  return image(value, where) ?? (isReadOnly ? undefined : `lets the guest write to ${value}`);
};
