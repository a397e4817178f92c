import fc from 'fast-check';
import { describe, it, expect } from 'vitest';
import { formatProperties, parseCommandLine, parseProperties, toArgv } from '../../src/qemu/command-line.js';
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
});
