import { expect, it } from 'vitest';
import { sharesImages } from '../../../src/qemu/image-locks.js';

it.each([
  [['-device', 'virtio-blk,drive=d,share-rw=on']],
  [['-device', '{"driver":"virtio-blk","drive":"d","share-rw":true}']],
  [['-drive', 'file=d.img,file.locking=off']],
  [['-blockdev', '{"driver":"file","filename":"d","locking":"off"}']],
])('is not asked where images are shared on purpose: %s', (args) => {
  expect(sharesImages(args)).toBe(true);
});

it.each([[['-drive', 'file=d.img']], [['-device', 'virtio-blk,drive=d,share-rw=off']]])(
  'is asked otherwise: %s',
  (args) => expect(sharesImages(args)).toBe(false),
);
