/** Port forwards of a command line, brought to what QEMU shows. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseCommandLine, propertiesOf } from '../../../../src/qemu/command-line.js';
import { withForwards } from '../../../../src/qemu/drift/forwards.js';

interface Forward {
  readonly protocol: 'tcp' | 'udp';
  readonly host: string;
  readonly port: number;
  readonly guestPort: number;
}

const forward = fc.record({
  protocol: fc.constantFrom('tcp' as const, 'udp' as const),
  host: fc.constantFrom('', '127.0.0.1'),
  port: fc.integer({ min: 1, max: 65535 }),
  guestPort: fc.integer({ min: 1, max: 65535 }),
});
const forwards = fc.uniqueArray(forward, { selector: ({ port }) => port, maxLength: 4 });

const given = ({ protocol, host, port, guestPort }: Forward) => `${protocol}:${host}:${port}-:${guestPort}`;
const row = ({ protocol, host, port, guestPort }: Forward) =>
  `  ${protocol.toUpperCase()}[HOST_FORWARD]  16 ${host || '*'} ${port} 10.0.2.15 ${guestPort} 0 0`;
const shown = (id: string, list: readonly Forward[]) =>
  `Hub -1 (${id}):\r\n  Protocol…\r\n${list.map(row).join('\r\n')}\r\n`;

function portsOf(words: readonly string[]): number[] {
  return propertiesOf({ name: words[0]!, value: words[1]! })
    .filter(({ key }) => key.startsWith('hostfwd'))
    .map(({ value }) => Number(/:(\d+)-/.exec(value)![1]))
    .sort((a, b) => a - b);
}

describe('port forwards', () => {
  const spellings = [
    (list: readonly Forward[]) => `user,id=n${list.map((each) => `,hostfwd=${given(each)}`).join('')}`,
    (list: readonly Forward[]) =>
      JSON.stringify({ type: 'user', id: 'n', hostfwd: list.map((each) => ({ str: given(each) })) }),
  ];

  it('are those that QEMU shows, however they were given, and to the letter when nothing has changed', () => {
    fc.assert(
      fc.property(forwards, forwards, fc.constantFrom(...spellings), (before, now, spell) => {
        const options = parseCommandLine(['-netdev', spell(before)]);
        expect(withForwards(options, shown('n', before))).toEqual(options);
        const [changed] = withForwards(options, shown('n', now));
        expect(portsOf([changed!.name, changed!.value!])).toEqual(
          now.map(({ port }) => port).sort((a, b) => a - b),
        );
        expect(withForwards([changed!], shown('n', now))).toEqual([changed]);
      }),
    );
  });

  it('of a network that QEMU shows no more, and such as are not understood, stay as they were given', () => {
    const options = parseCommandLine([
      '-netdev',
      'user,id=n,hostfwd=unix:/s-:22',
      '-nic',
      'user,hostfwd=tcp::5-:5',
    ]);
    expect(withForwards(options, shown('n', []))).toEqual(options);
    expect(withForwards(options, '')).toEqual(options);
  });
});
