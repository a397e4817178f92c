/**
 * dist/: one file for each thing that is started as a process or a thread, and beside it what it needs only now and
 * then. Loading one file instead of a hundred brings the transfer process up before QEMU is ready for it.
 */
import { defineConfig } from 'rolldown';

const ENTRIES = [
  'index',
  'cli/main',
  'serving/main',
  'save/receiver-process',
  'aftercare/process',
  'page-server/fetcher-process',
  'capture/read-worker',
  'checkpoint/compress-worker',
  'checkpoint/decode-worker',
  'bench/client-worker',
];

export default defineConfig(
  ENTRIES.map((entry) => ({
    input: { [entry]: `src/${entry}.ts` },
    platform: 'node',
    external: [/^zstd-napi/, '@aws-sdk/client-s3', 'hash-wasm', 'pino'],
    output: {
      dir: 'dist',
      format: 'esm',
      sourcemap: true,
      chunkFileNames: `${entry}.[name].js`,
      // Half of the time to load a file goes into its comments and spaces. Names stay, for stack traces.
      minify: { compress: true, mangle: false, codegen: true },
    },
  })),
);
