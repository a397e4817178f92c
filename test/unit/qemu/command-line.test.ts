import { describe, expect, it } from 'vitest';
import {
  formatProperties,
  parseCommandLine,
  parseProperties,
  propertiesOf,
  propertyOf,
  toArgv,
  withProperties,
} from '../../../src/qemu/command-line.js';

describe('parseCommandLine', () => {
  it('keeps the order and tells options with a value from those without', () => {
    const argv = [
      '-nographic',
      '-m',
      '64',
      '-S',
      '-append',
      '-not an option',
      '-device',
      'x',
      '-device',
      'y',
    ];
    expect(parseCommandLine(argv)).toEqual([
      { name: 'nographic' },
      { name: 'm', value: '64' },
      { name: 'S' },
      { name: 'append', value: '-not an option' },
      { name: 'device', value: 'x' },
      { name: 'device', value: 'y' },
    ]);
    expect(toArgv(parseCommandLine(argv))).toEqual(argv);
  });

  it('takes two dashes for one, and a bare word for a disk', () => {
    expect(toArgv(parseCommandLine(['--smp', '2', 'disk.img']))).toEqual(['-smp', '2', '-hda', 'disk.img']);
  });

  it('guesses by its looks whether an option of a newer QEMU has a value', () => {
    expect(parseCommandLine(['-brand-new', 'x', '-newer', '-S'])).toEqual([
      { name: 'brand-new', value: 'x' },
      { name: 'newer' },
      { name: 'S' },
    ]);
  });

  it('refuses an option whose value is missing', () => {
    expect(() => parseCommandLine(['-m'])).toThrow(/-m has no value/);
  });
});

describe('properties', () => {
  it('reads the implied first key, doubled commas and lonely keys', () => {
    expect(propertiesOf({ name: 'device', value: 'virtio-blk-pci,serial=a,,b,readonly' })).toEqual([
      { key: 'driver', value: 'virtio-blk-pci' },
      { key: 'serial', value: 'a,b' },
      { key: 'readonly', value: 'on' },
    ]);
    expect(parseProperties('a=b=c')).toEqual([{ key: 'a', value: 'b=c' }]);
  });

  it('reads JSON, with nested members under dotted keys', () => {
    const option = { name: 'blockdev', value: '{"driver":"raw","file":{"driver":"file","n":[1,true]}}' };
    expect(propertyOf(option, 'file.driver')).toBe('file');
    expect(propertyOf(option, 'file.n.0')).toBe('1');
    expect(propertyOf(option, 'file.n.1')).toBe('on');
    expect(() => propertiesOf({ name: 'device', value: '{' })).toThrow(/cannot be parsed/);
  });

  it('lets the last of several equal keys win', () => {
    expect(propertyOf({ name: 'machine', value: 'pc,type=q35' }, 'type')).toBe('q35');
  });

  it('lets the first id win, but in the newer grammar the last', () => {
    expect(propertyOf({ name: 'chardev', value: 'null,id=a,id=b' }, 'id')).toBe('a');
    expect(propertyOf({ name: 'object', value: 'iothread,id=a,id=b' }, 'id')).toBe('b');
  });

  it('reads words as QEMU does', () => {
    const read = (text: string) => parseProperties(text, 'path').map(({ key, value }) => `${key}=${value}`);
    expect(read('server,nowait,noscript')).toEqual(['path=server', 'wait=off', 'script=off']);
    expect(read('a,,b=c,d')).toEqual(['path=a,b=c', 'd=on']);
    expect(read('a=b,,,c=d,')).toEqual(['a=b,', 'c=d']);
    expect(read('a=b,c,,d=e')).toEqual(['a=b', 'c=on', '=on', 'd=e']);
  });

  it('reads JSON only where QEMU does, and refuses a key that is there twice', () => {
    expect(propertyOf({ name: 'drive', value: '{"a":1,file=x' }, 'file')).toBe('x');
    const twice = '{"driver":"raw","file":{"driver":"file","filename":"a:\\"","filename":"b"}}';
    expect(() => propertiesOf({ name: 'blockdev', value: twice })).toThrow(/same key twice/);
    expect(propertyOf({ name: 'device', value: '{"driver":"a\\":b","x" : ":"}' }, 'x')).toBe(':');
  });

  it('replaces, adds and removes without touching the others', () => {
    const option = { name: 'chardev', value: 'stdio,id=c,mux=on,signal=off,logfile=a,,b' };
    expect(withProperties(option, { backend: 'socket', signal: undefined, wait: 'off' }).value).toBe(
      'socket,id=c,mux=on,logfile=a,,b,wait=off',
    );
  });

  it('writes an implied key out where its value would be mistaken', () => {
    expect(formatProperties([{ key: 'type', value: 'a=b' }], 'type')).toBe('type=a=b');
  });
});
