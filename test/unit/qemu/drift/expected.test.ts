/** What a command line makes of settings that can change at run time. */
import { describe, expect, it } from 'vitest';
import { parseCommandLine } from '../../../../src/qemu/command-line.js';
import { expectedValue } from '../../../../src/qemu/drift/expected.js';

const expected = (setting: { kind: string; id: string; name?: string }, ...words: string[]) =>
  expectedValue({ name: '', value: '', ...setting }, parseCommandLine(words));

describe('a command line gives', () => {
  const drive = { kind: 'throttle', id: 'd', name: 'device' };

  it('I/O limits in both spellings, with the group that is the default', () => {
    const both = ['throttling.iops-total=5,throttling.bps-read-max-length=2', 'iops=5,bps_rd_max_length=2'];
    for (const limits of both)
      expect(expected(drive, '-drive', `id=d,file=f,${limits}`)).toBe(
        '{"bps_rd_max_length":2,"iops":5,"group":"d"}',
      );
    expect(expected(drive, '-drive', 'id=d,file=f,throttling.bps-total=1,throttling.group=g')).toBe(
      '{"bps":1,"group":"g"}',
    );
    expect(expected(drive, '-drive', 'id=d,file=f,bps=0,bps_max_length=1,group=g')).toBe('{}');
  });

  it('no limits to a node, and to a drive without an id none that could be told', () => {
    expect(expected({ ...drive, name: 'qdev' }, '-drive', 'id=d,bps=1')).toBe('{}');
    expect(expected({ ...drive, id: 'virtio0' }, '-drive', 'file=f,if=virtio')).toBe('{}');
    expect(expected({ ...drive, id: 'virtio0' }, '-drive', 'file=f,if=virtio,bps=1')).toBeUndefined();
  });

  it('properties of devices, unless another option may', () => {
    const boot = { kind: 'device', id: 'peripheral/n', name: 'bootindex' };
    expect(expected(boot, '-device', 'e1000,id=n,bootindex=2')).toBe('2');
    expect(expected(boot, '-device', 'e1000,id=n')).toBe('-1');
    expect(
      expected({ ...boot, id: 'peripheral-anon/device[0]' }, '-device', 'e1000,bootindex=2'),
    ).toBeUndefined();
    expect(expected(boot, '-device', 'e1000,id=n', '-set', 'device.n.bootindex=1')).toBeUndefined();
  });

  it('trace events by name and by pattern', () => {
    const event = { kind: 'trace', id: 'virtio_blk_req_complete' };
    expect(expected(event)).toBe('false');
    for (const words of [
      ['-trace', 'virtio_*'],
      ['-trace', 'enable=virtio_blk_req_complete'],
      ['-d', 'int,trace:virtio*complete'],
    ])
      expect(expected(event, ...words)).toBe('true');
    expect(expected(event, '-trace', 'virtio_net*')).toBe('false');
    expect(expected(event, '-trace', 'events=/some/file')).toBeUndefined();
  });
});
