import { expect, it } from 'vitest';
import { imagesWrittenTo, sharesImages } from '../../../src/qemu/image-locks.js';

it.each([
  [['-device', 'virtio-blk,drive=d,share-rw=on']],
  [['-device', '{"driver":"virtio-blk","drive":"d","share-rw":true}']],
  [['-drive', 'file=d.img,file.locking=off']],
  [['-blockdev', '{"driver":"file","filename":"d","locking":"off"}']],
])('is not asked where images are shared on purpose: %s', (args) => {
  expect(sharesImages(args)).toBe(true);
});

it('names no image that is no file, or cannot be looked at', () => {
  const images = [
    'nbd://host:1/',
    `json:{"driver":"${'x'.repeat(5000)}"}`,
    '/etc/passwd/disk',
    'missing.img',
  ];
  expect(imagesWrittenTo(images, '/')).toEqual([]);
});

it.each([[['-drive', 'file=d.img']], [['-device', 'virtio-blk,drive=d,share-rw=off']]])(
  'is asked otherwise: %s',
  (args) => expect(sharesImages(args)).toBe(false),
);
