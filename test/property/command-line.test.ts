import fc from 'fast-check';
import { describe, it, expect } from 'vitest';
import { formatProperties, parseCommandLine, parseProperties, toArgv } from '../../src/qemu/command-line.js';
import { giveIdentity } from '../../src/qemu/own-identity.js';
import { relocate } from '../../src/qemu/relocation.js';
import { rewriteForRestore } from '../../src/qemu/restore-command-line.js';
import { untrustedOptions } from '../../src/qemu/trust.js';

const option = fc.oneof(
  fc.constantFrom('nographic', 'S', 'snapshot', 'enable-kvm', 'nodefaults').map((name) => [`-${name}`]),
  fc
    .tuple(fc.constantFrom('device', 'append', 'drive', 'name', 'chardev', 'serial', 'netdev'), fc.string())
    .map(([name, value]) => [`-${name}`, value]),
);
const argv = fc.array(option).map((options) => options.flat());

describe('a QEMU command line', () => {
  it('survives parsing and writing unchanged', () => {
    fc.assert(
      fc.property(argv, (words) => {
        expect(toArgv(parseCommandLine(words))).toEqual(words);
      }),
    );
  });

  it('keeps the properties of an option through writing and parsing', () => {
    const property = fc.record({ key: fc.stringMatching(/^[a-z][a-z0-9._-]{0,9}$/), value: fc.string() });
    fc.assert(
      fc.property(fc.array(property), fc.constantFrom(undefined, 'type'), (properties, implied) => {
        expect(parseProperties(formatProperties(properties, implied), implied)).toEqual(properties);
      }),
    );
  });

  it('is rewritten or refused with a VmckptError, whatever it holds', () => {
    const options = { monitorSocket: '/run/m', consoleSocket: '/run/c', paused: false };
    fc.assert(
      fc.property(argv, (words) => {
        try {
          expect(rewriteForRestore(words, options).args).not.toContain('-daemonize');
          untrustedOptions(words);
        } catch (error) {
          expect(error).toMatchObject({ code: 'COMMAND_LINE_UNSUPPORTED' });
        }
      }),
    );
  });

  it('is rewritten to the same again: a restored VM can be saved and restored once more', () => {
    const wishes = (folder: string): Parameters<typeof rewriteForRestore>[1] => ({
      monitorSocket: `/run/vmckpt/${folder}/qmp.sock`,
      consoleSocket: `/run/vmckpt/${folder}/console.sock`,
      paused: false,
    });
    for (const stdio of [['-nographic'], ['-serial', 'stdio'], ['-chardev', 'stdio,id=c,mux=on']]) {
      const words = [...stdio, '-machine', 'q35', '-qmp', 'unix:/tmp/q,server'];
      const first = rewriteForRestore(words, wishes('first')).args;
      const second = rewriteForRestore(first, wishes('second'));
      expect(new Set(second.args)).toEqual(new Set(rewriteForRestore(words, wishes('second')).args));
      expect(second.consoleSocket).toBe('/run/vmckpt/second/console.sock');
    }
  });

  const file = fc.stringMatching(/^(\/[a-z,.]{1,8}){1,3}$/);
  const port = fc.integer({ min: 1, max: 65535 });
  const claim = fc.oneof(
    file.map((path) => ['-qmp', `unix:${path.replaceAll(',', ',,')},server=on,wait=off`]),
    file.map((path) => ['-chardev', `socket,id=c,path=${path.replaceAll(',', ',,')},server,logfile=/l`]),
    file.map((path) => ['-serial', `file:${path.replaceAll(',', ',,')}`]),
    port.map((number) => ['-netdev', `user,id=n,hostfwd=tcp:127.0.0.1:${number}-:22`]),
    port.map((number) => ['-netdev', `{"type":"user","id":"n","hostfwd":[{"str":"udp::${number}-:5"}]}`]),
    port.map((number) => ['-monitor', `telnet:[::1]:${number},server,nowait`]),
    port.map((number) => ['-device', `{"driver":"vhost-vsock-pci","guest-cid":${number}}`]),
    fc.constant(['-s']),
  );
  const claims = fc.array(fc.oneof(claim, option)).map((options) => options.flat());

  it('keeps every word in the place of the original, and never throws anything else than a refusal', async () => {
    await fc.assert(
      fc.asyncProperty(claims, async (words) => {
        const own = giveIdentity(words, { identity: 'original', directory: '/run/vmckpt/vms/x' });
        const { args, moved } = await own.catch((error: { code: string }) => {
          expect(error.code).toBe('COMMAND_LINE_UNSUPPORTED');
          return { args: words, moved: [] };
        });
        expect([args, moved]).toEqual([words, []]);
      }),
    );
  });

  it('has all it claims in other places as a clone, and the same claims as the clone of a clone', () => {
    const places = {
      file: (from: string) => `/own/${from.slice(from.lastIndexOf('/') + 1)}`,
      port: () => 7777,
      vsockId: () => 9,
    };
    fc.assert(
      fc.property(fc.array(claim), (options) => {
        const once = relocate(parseCommandLine(options.flat()), places);
        const twice = relocate(once.options, places);
        expect(toArgv(twice.options)).toEqual(toArgv(once.options));
        expect(twice.moved).toEqual([]);
        for (const { to } of once.moved) expect(to).toMatch(/^\/own\/|7777$|^9$/);
      }),
    );
  });
});
