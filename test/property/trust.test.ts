/** What the judge takes for harmless, another reader of QEMU's grammar does not find harmful. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseProperties } from '../../src/qemu/command-line.js';
import { untrustedOptions } from '../../src/qemu/trust.js';

/** Written after the description of QemuOpts, byte by byte, and not with the code of src. */
function readAsQemu(text: string, impliedKey?: string): Map<string, string> {
  const found = new Map<string, string>();
  let at = 0;
  const value = (): string => {
    let read = '';
    for (; at < text.length; at++) {
      if (text[at] === ',' && text[at + 1] !== ',') break;
      if (text[at] === ',') at++;
      read += text[at];
    }
    return read;
  };
  for (let isFirst = true; at < text.length; isFirst = false, at++) {
    let end = at;
    while (end < text.length && text[end] !== '=' && text[end] !== ',') end++;
    const key = text.slice(at, end);
    if (text[end] === '=') {
      at = end + 1;
      found.set(key, value());
    } else if (isFirst && impliedKey !== undefined) found.set(impliedKey, value());
    else {
      at = end;
      if (key.startsWith('no')) found.set(key.slice(2), 'off');
      else found.set(key, 'on');
    }
  }
  return found;
}

const GLUE = fc.constantFrom(',', ',', ',', ',,', ',,,', '=', '');
function fragmentsOf(...words: string[]): fc.Arbitrary<string> {
  const tail = fc.array(fc.tuple(GLUE, fc.constantFrom(...words)), { maxLength: 5 });
  return tail.map((parts) => parts.flat().join(''));
}

type Facts = ReadonlyMap<string, string>;
const isOn = (value: string | undefined) => ['on', 'yes', 'true', 'y'].includes(value ?? '');
const isName = (value: string | undefined) => value === undefined || /^[^:]*(\/|$)/.test(value);

interface Subject {
  readonly option: string;
  readonly starts: readonly string[];
  readonly words: readonly string[];
  readonly impliedKey?: string;
  /** What stands before the properties. */
  readonly prefix?: string;
  readonly isHarmless: (facts: Facts) => boolean;
}

const SUBJECTS: readonly Subject[] = [
  {
    option: '-netdev',
    impliedKey: 'type',
    starts: ['tap', 'user', 'type=tap', 'tap,script=no,downscript=no'],
    words:
      'id=n script=no downscript=no script=/x noscript script nodownscript ifname=t smb=/ type=user helper=/h br=b'
        .split(' ')
        .concat('guestfwd=tcp:1.1.1.1:1-cmd:sh', 'restrict=on', 'hostfwd=tcp::1-:2'),
    isHarmless: (facts) => {
      if (['smb', 'helper', 'br', 'guestfwd'].some((key) => facts.has(key))) return false;
      return (
        facts.get('type') === 'user' || (facts.get('script') === 'no' && facts.get('downscript') === 'no')
      );
    },
  },
  {
    option: '-drive',
    starts: ['file=X', 'if=none', 'readonly=on', 'file=X,snapshot=on'],
    words:
      'file=X file=nbd:x file=a,,b readonly=on readonly=off noreadonly readonly read-only=on noread-only snapshot=on'
        .split(' ')
        .concat(
          'nosnapshot',
          'snapshot=off',
          'media=cdrom',
          'media=disk',
          'format=raw',
          'id=d',
          'file.driver=nbd',
        ),
    isHarmless: (facts) => {
      if (!isName(facts.get('file')) || facts.get('file.driver') === 'nbd') return false;
      const isSafe = ['readonly', 'read-only', 'snapshot'].some((key) => isOn(facts.get(key)));
      return !facts.has('file') || isSafe || facts.get('media') === 'cdrom';
    },
  },
  ...['', 'mon:'].map((mon): Subject => ({
    option: '-serial',
    prefix: `${mon}unix:`,
    impliedKey: 'path',
    starts: ['/tmp/ok', 'path=/tmp/ok', '/tmp/ok,server=on', '/etc/x', '/tmp/a,,b'],
    words:
      'server=on server nowait noserver wait=off path=/etc/x path=/tmp/b backend=file logfile=/l server=off mux=on'.split(
        ' ',
      ),
    isHarmless: (facts) =>
      isOn(facts.get('server')) &&
      facts.get('path')!.startsWith('/tmp/') &&
      !facts.has('logfile') &&
      !facts.has('backend'),
  })),
  {
    option: '-chardev',
    impliedKey: 'backend',
    starts: ['socket', 'null', 'pty', 'file', 'socket,id=c,path=/tmp/a,server=on'],
    words:
      'id=c path=/tmp/a path=/etc/x server=on server noserver backend=file backend=null backend=pty logfile=/l'
        .split(' ')
        .concat('nowait', 'host=h', 'port=1', 'fd=3'),
    isHarmless: (facts) => {
      if (facts.has('logfile')) return false;
      const backend = facts.get('backend')!;
      if (backend === 'socket')
        return (
          isOn(facts.get('server')) && facts.get('path')?.startsWith('/tmp/') === true && !facts.has('fd')
        );
      return backend === 'null' || (backend === 'pty' && !facts.has('path'));
    },
  },
  {
    option: '-accel',
    impliedKey: 'accel',
    starts: ['kvm', 'tcg', 'accel=kvm'],
    words: ['device=/x', 'accel=xen', 'thread=multi', 'kernel-irqchip=on', 'nodevice', 'device'],
    isHarmless: (facts) => !facts.has('device') && facts.get('accel') !== 'xen',
  },
  {
    option: '-vnc',
    impliedKey: 'vnc',
    starts: ['127.0.0.1:1', ':1', 'none', 'vnc=127.0.0.1:1'],
    words: [
      'vnc=:2',
      'websocket=on',
      'websocket=0.0.0.0:1',
      'password',
      'password=on',
      'share=ignore',
      'nolossy',
    ],
    isHarmless: (facts) => !facts.has('websocket') && /^(none|127\.0\.0\.1:1)$/.test(facts.get('vnc')!),
  },
];

describe('the judge of a command line', () => {
  it.each(SUBJECTS)('agrees with what QEMU reads: $option $prefix', (subject) => {
    const { option, starts, words, impliedKey, prefix = '', isHarmless } = subject;
    const value = fc.tuple(fc.constantFrom(...starts), fragmentsOf(...words)).map((parts) => parts.join(''));
    let passed = 0;
    fc.assert(
      fc.property(value, (text) => {
        const facts = readAsQemu(text, impliedKey);
        // As the rest of the program reads it.
        const own = parseProperties(text, impliedKey).map(({ key, value: last }): [string, string] => [
          key,
          last,
        ]);
        expect(new Map(own)).toEqual(facts);
        if (untrustedOptions([option, prefix + text]).length > 0) return;
        passed++;
        expect(isHarmless(facts), text).toBe(true);
      }),
      { numRuns: 3000 },
    );
    expect(passed).toBeGreaterThan(10);
  });
});
