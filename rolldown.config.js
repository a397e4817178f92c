/**
 * dist/: one file for each thing that is started as a process or a thread, and what they share. Loading a few
 * files instead of a hundred brings the transfer process up before QEMU is ready for it.
 */
import { defineConfig } from 'rolldown';

const ENTRIES = [
  'index',
  'cli/main',
  'restore/transfer-process',
  'save/receiver-process',
  'restore/aftercare-process',
  'checkpoint/compress-worker',
  'checkpoint/decode-worker',
  'bench/client-worker',
];

export default defineConfig({
  input: Object.fromEntries(ENTRIES.map((name) => [name, `src/${name}.ts`])),
  platform: 'node',
  external: [/^zstd-napi/, 'pino'],
  output: {
    dir: 'dist',
    format: 'esm',
    sourcemap: true,
    chunkFileNames: 'shared/[name].js',
    // Comments and spaces take time to load. Names stay, for stack traces.
    minify: { compress: true, mangle: false, codegen: true },
  },
});
