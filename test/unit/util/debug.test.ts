import { expect, it } from 'vitest';
import { elided, elidedCommand } from '../../../src/util/debug.js';

it('leaves secrets out of what it shows of QMP', () => {
  const shown = elided({
    'qom-type': 'secret',
    id: 'key',
    data: 'hidden',
    props: { password: 'hidden', port: 5900 },
  });
  expect(shown).toBe('{"qom-type":"secret","id":"key","data":"…","props":{"password":"…","port":5900}}');
});

it('shows structures that are called like a secret', () => {
  expect(elided({ data: { status: 'running' } })).toBe('{"data":{"status":"running"}}');
});

it('leaves secrets out of command lines, also those with commas', () => {
  const shown = elidedCommand([
    'qemu',
    '-object',
    'secret,id=key,data=a,,b,format=raw',
    '-vnc',
    ':1,password=on',
  ]);
  expect(shown).toBe('"qemu" "-object" "secret,id=key,data=…,format=raw" "-vnc" ":1,password=…"');
});

it('shortens what is long', () => {
  const shown = elided('x'.repeat(1000));
  expect(shown.length).toBeLessThan(450);
  expect(shown).toMatch(/… \(1002 characters\)$/);
});
