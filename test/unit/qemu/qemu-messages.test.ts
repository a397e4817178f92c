import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { endOfQemu } from '../../../src/qemu/incoming.js';
import { codeOfQemuMessage, explainQemuMessage } from '../../../src/qemu/qemu-messages.js';

describe('a QEMU that ends while the machine is loaded', () => {
  it.each([
    ['qemu: Unknown savevm section or instance', 'QEMU_INCOMPATIBLE'],
    ['qemu: Missing section footer for cpu', 'QEMU_INCOMPATIBLE'],
    ["qemu: error while loading state for instance 0x0 of device 'x'", 'QEMU_INCOMPATIBLE'],
    [
      "qemu: error while loading state for instance 0x0 of device 'x'\nqemu: load of migration failed: No such file or directory",
      'QEMU_INCOMPATIBLE',
    ],
    ['qemu: postcopy: Cannot allocate memory', 'QEMU_DIED'],
    ['qemu: Failed to get "write" lock', 'QEMU_DIED'],
    ['', 'QEMU_DIED'],
  ])('has met another machine, or has failed: %j', (said, code) => {
    const directory = mkdtempSync(path.join(tmpdir(), 'vmckpt-'));
    onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
    const log = path.join(directory, 'log');
    writeFileSync(log, said);
    expect(endOfQemu({ exitCode: 1, killedBy: null }, log)).toMatchObject({ code });
  });
});

describe('explainQemuMessage', () => {
  it.each([
    ["qemu: -netdev user,id=n,hostfwd=…: Could not set up host forwarding rule 'tcp::1-:1'", /host port/],
    ['qemu: -drive …: Failed to get "write" lock\nIs another process using the image [x]?', /disk image/],
    ['qemu: unsupported machine type "pc-q35-99"', /machine type/],
    ["qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory", /free memory/],
    ['Could not access KVM kernel module: No such file or directory', /KVM/],
    ['qemu: -chardev socket,…: Failed to bind socket to /gone/x: No such file or directory', /folder/],
    ['qemu: -chardev socket,…: Failed to bind socket: Permission denied', /may not listen/],
    ['qemu: -vnc …: Failed to find an available port: Permission denied', /may not listen/],
    ['qemu: -chardev socket,…: Failed to unlink socket /root/x: Permission denied', /may not listen/],
    ['qemu: -qmp …: Failed to unlink socket /tmp/x: Operation not permitted', /may not listen/],
    ['qemu: -vnc …: Failed to find an available port: Address already in use', /in use/],
    ['qemu: -vnc …: Failed to bind socket: Cannot assign requested address', /not one of this host/],
    ['qemu: Missing section footer for cpu', /less or more state/],
    [
      "qemu: Unknown savevm section or instance '0000:00:03.0/virtio-rng' 0",
      /device that this VM does not have/,
    ],
    ['qemu: Unknown ramblock "x", cannot accept migration', /memory that this VM does not have/],
    ['qemu: Size mismatch: 0000:00:02.0/virtio-net-pci.rom: 0x40000 != 0x20000', /another size/],
    ['qemu: Length mismatch: pc.ram: 0x4000000 in != 0x8000000', /another size/],
  ])('knows what %j means', (said, meaning) => {
    expect(explainQemuMessage(`some warning\n${said}\n`)).toMatch(meaning);
  });

  it.each([
    ['qemu: unsupported machine type', 'QEMU_INCOMPATIBLE'],
    ["qemu: 'xyz' is not a valid device model name", 'QEMU_INCOMPATIBLE'],
    ['Could not access KVM kernel module: No such file or directory', 'QEMU_INCOMPATIBLE'],
    ['Could not access KVM kernel module: Permission denied', 'NOT_PERMITTED'],
    ["-drive file=d.img: Could not open 'd.img': Permission denied", 'NOT_PERMITTED'],
    ['qemu: -chardev socket,…: Failed to bind socket: Permission denied', 'NOT_PERMITTED'],
    ['qemu: Failed to get "write" lock', undefined],
    ['qemu: -vnc …: Failed to bind socket: Address already in use', undefined],
    ['qemu: -drive file=gone: Could not open: No such file or directory', undefined],
    ['qemu: module ui-ui-gtk not found, do you want to install qemu-system-gui?\nqemu: bad luck', undefined],
    ["qemu: warning: TCG doesn't support requested feature: CPUID.01H:EDX.vme\nqemu: bad luck", undefined],
  ])('tells what cannot be from what has failed: %j', (said, code) => {
    expect(codeOfQemuMessage(said)).toBe(code);
  });

  it('does not guess', () => {
    expect(explainQemuMessage('all is well')).toBeUndefined();
  });
});
