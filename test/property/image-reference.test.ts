/** Image references mean the same in each of their spellings, and others do not. */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseCommandLine } from '../../src/qemu/command-line.js';
import { givenDrives, givenNodes } from '../../src/qemu/given-images.js';
import { isSamePlace, placeOfName, placeOfNode, type ImagePlace } from '../../src/qemu/image-reference.js';
import { suiteDirectory } from '../support/vitest.js';

/** What a command line gives to its only drive, or to the node `top`. */
function given(...words: string[]): ImagePlace {
  const options = parseCommandLine(words);
  const [drive] = givenDrives(options);
  if (drive?.place !== undefined) return drive.place;
  const nodes = givenNodes(options);
  return placeOfNode(nodes.get('top')!, nodes);
}

const commas = (text: string) => text.replaceAll(',', ',,');
const json = (value: object) => JSON.stringify(value);
const leaf = (filename: string) => ({ driver: 'file', filename });

/** Each with the name of a file that holds neither a prefix of a protocol nor an empty part. */
const FILE_SPELLINGS: readonly ((file: string) => ImagePlace)[] = [
  (file) => given(file),
  (file) => given('-hda', file),
  (file) => given('-cdrom', file),
  (file) => given('-drive', `file=${commas(file)},format=raw`),
  (file) => given('-drive', `if=none,id=d,file=file:${commas(file)}`),
  (file) => given('-drive', `driver=raw,file.driver=file,file.filename=${commas(file)}`),
  (file) => given('-drive', `file=json:${commas(json({ driver: 'qcow2', file: leaf(file) }))}`),
  (file) => given('-blockdev', json({ driver: 'raw', 'node-name': 'top', file: leaf(file) })),
  (file) => given('-blockdev', `driver=qcow2,node-name=top,file.driver=file,file.filename=${commas(file)}`),
  (file) =>
    given(
      ...['-blockdev', `driver=file,node-name=bottom,filename=${commas(file)}`],
      ...['-blockdev', 'driver=throttle,throttle-group=g,node-name=top,file=bottom'],
    ),
  (file) => placeOfName(file),
  (file) => placeOfName(`json:${json({ 'throttle-group': 'g', driver: 'throttle', file: leaf(file) })}`),
];

const NBD_SPELLINGS: readonly ((host: string, port: number, name: string) => ImagePlace)[] = [
  (host, port, name) => placeOfName(`nbd:${host}:${port}:exportname=${name}`),
  (host, port, name) => placeOfName(`nbd://${host}:${port}/${encodeURIComponent(name)}`),
  (host, port, name) => given('-drive', `file=nbd+tcp://${host}:${port}/${encodeURIComponent(name)}`),
  (host, port, name) =>
    given('-drive', `driver=raw,file.driver=nbd,file.host=${host},file.port=${port},file.export=${name}`),
  (host, port, name) =>
    given(
      '-blockdev',
      json({
        driver: 'nbd',
        'node-name': 'top',
        server: { type: 'inet', host, port: `${port}` },
        export: name,
      }),
    ),
];

const word = fc.stringMatching(/^[a-z0-9]{1,8}$/);
const file = fc
  .array(fc.stringMatching(/^[a-z0-9 ,=._@-]{1,6}$/), { minLength: 1, maxLength: 3 })
  .map((parts) => parts.join('/'))
  .filter((name) => !name.startsWith('-'));
const any = <T>(items: readonly T[]) => fc.constantFrom(...items);

describe('an image reference', () => {
  const dir = suiteDirectory();

  it('of a file is the same place in every spelling, and that of another file is not', () => {
    const pair = any(FILE_SPELLINGS);
    fc.assert(
      fc.property(file, file, pair, pair, (name, other, first, second) => {
        expect(isSamePlace(first(name), second(name), '/vm')).toBe(true);
        expect(isSamePlace(first(name), second(`/vm/${name}`), '/vm')).toBe(true);
        if (path.resolve('/', name) !== path.resolve('/', other))
          expect(isSamePlace(first(name), second(other), '/vm')).toBe(false);
      }),
    );
  });

  it('of an NBD export is the same place in every spelling, and that of another one is not', () => {
    const pair = any(NBD_SPELLINGS);
    const port = fc.integer({ min: 1, max: 65535 });
    fc.assert(
      fc.property(word, port, word, pair, pair, (host, number, name, first, second) => {
        const place = first(host, number, name);
        expect(isSamePlace(place, second(host, number, name), '/')).toBe(true);
        expect(isSamePlace(place, second(host, number, `${name}x`), '/')).toBe(false);
        expect(isSamePlace(place, second(`${host}x`, number, name), '/')).toBe(false);
        expect(isSamePlace(place, second(host, (number % 65535) + 1, name), '/')).toBe(false);
      }),
    );
  });

  it('of an NBD socket may leave out the export, the port and the host', () => {
    const spelt = [
      'nbd:unix:run/s',
      'nbd+unix:///?socket=run/s',
      'nbd+unix:///?socket=/vm/run/s',
      `json:${json({ driver: 'nbd', server: { type: 'unix', path: 'run/s' } })}`,
    ].map((text) => placeOfName(text));
    for (const place of spelt) expect(isSamePlace(place, spelt[0]!, '/vm')).toBe(true);
    expect(isSamePlace(placeOfName('nbd://localhost/'), placeOfName('nbd:127.0.0.1:10809'), '/')).toBe(true);
  });

  it('that is a URL, a directory or nothing at all is compared by its driver and its options', () => {
    const same: [string, string][] = [
      ['https://Example.org/x.iso', 'https://example.org/x.iso'],
      ['https://example.org/', `json:${json({ driver: 'https', url: 'https://example.org' })}`],
      [
        'fat:rw:/srv/dir',
        `json:${json({ driver: 'raw', file: { driver: 'vvfat', dir: '/srv/dir', rw: true } })}`,
      ],
      ['null-co://', `json:${json({ driver: 'raw', file: { driver: 'null-co' } })}`],
    ];
    for (const [a, b] of same) expect(isSamePlace(placeOfName(a), placeOfName(b), '/')).toBe(true);
    expect(isSamePlace(placeOfName('https://a/x'), placeOfName('https://a/X'), '/')).toBe(false);
    expect(isSamePlace(placeOfName('fat:/a'), placeOfName('fat:/b'), '/')).toBe(false);
    expect(isSamePlace(placeOfName('/a'), placeOfName('nbd:unix:/a'), '/')).toBe(false);
  });

  it('never makes the comparison throw, whatever it holds', () => {
    const text = fc.oneof(
      fc.string(),
      fc.string().map((rest) => `json:${rest}`),
      fc.json().map((rest) => `json:${rest}`),
    );
    fc.assert(
      fc.property(text, text, (a, b) => {
        expect(isSamePlace(placeOfName(a), placeOfName(a), '/')).toBe(true);
        expect(typeof isSamePlace(placeOfName(a), placeOfName(b), '/')).toBe('boolean');
      }),
    );
  });

  it('follows links', () => {
    mkdirSync(path.join(dir, 'real'));
    for (const name of ['disk.raw', 'other.raw']) writeFileSync(path.join(dir, 'real', name), '');
    symlinkSync('real', path.join(dir, 'link'));
    expect(isSamePlace(placeOfName('link/disk.raw'), placeOfName('real/disk.raw'), dir)).toBe(true);
    expect(isSamePlace(placeOfName('link/disk.raw'), placeOfName('real/other.raw'), dir)).toBe(false);
  });
});
