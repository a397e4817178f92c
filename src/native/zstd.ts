/**
 * Zstandard for JavaScript threads: zstd-napi if it is installed, otherwise its binary in the package, otherwise Node's
 * own since 22.15. All of them produce the same frames.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import zlib from 'node:zlib';
import type * as Binding from 'zstd-napi/binding.js';
import { VmckptError } from '../errors.js';
import { BUNDLED } from './addon.js';

export interface Zstd {
  /** The maximum compressed size of that many bytes. */
  bound(bytes: number): number;
  /** Compresses to the start of `into`, which has room for `bound(bytes.length)`; returns the length. */
  compressor(level: number): (bytes: Uint8Array, into: Uint8Array) => number;
  /** Decompresses one frame to the start of `into`; returns the length, and throws when it is damaged or too long. */
  decompressor(): (bytes: Uint8Array, into: Uint8Array) => number;
}

/** node:zlib, newer than our types. */
export interface NodeZstd {
  zstdCompressSync(bytes: Uint8Array, options: object): Buffer;
  zstdDecompressSync(bytes: Uint8Array, options: object): Buffer;
  readonly constants: { readonly ZSTD_c_compressionLevel: number };
}

let found: Zstd | undefined;

/** Looked for on first use: many restores on the direct path need none. */
export function zstd(): Zstd {
  return (found ??= find());
}

function find(): Zstd {
  const require = createRequire(import.meta.url);
  try {
    return fromBinding(require('zstd-napi/binding.js') as typeof Binding);
  } catch {
    const file = path.join(BUNDLED, 'zstd.node');
    if (existsSync(file)) return fromBinding(require(file) as typeof Binding);
  }
  return 'zstdCompressSync' in zlib ? fromNode(zlib as unknown as NodeZstd) : missing();
}

function fromBinding({ CCtx, CParameter, DCtx, compressBound }: typeof Binding): Zstd {
  return {
    bound: compressBound,
    compressor: (level) => {
      const context = new CCtx();
      context.setParameter(CParameter.compressionLevel, level);
      return (bytes, into) => context.compress2(into, bytes);
    },
    decompressor: () => {
      const context = new DCtx();
      return (bytes, into) => context.decompress(into, bytes);
    },
  };
}

export function fromNode(node: NodeZstd): Zstd {
  const copy = (from: Buffer, into: Uint8Array) => {
    into.set(from);
    return from.length;
  };
  return {
    // ZSTD_COMPRESSBOUND of zstd.h, rounded up.
    bound: (bytes) => bytes + (bytes >> 8) + 64,
    compressor: (level) => (bytes, into) => {
      const params = { [node.constants.ZSTD_c_compressionLevel]: level };
      return copy(node.zstdCompressSync(bytes, { params, pledgedSrcSize: bytes.length }), into);
    },
    decompressor: () => (bytes, into) =>
      copy(node.zstdDecompressSync(bytes, { maxOutputLength: into.length }), into),
  };
}

/** Throws on first use, so that everything without checkpoints works. */
function missing(): Zstd {
  const fail = (): never => {
    throw new VmckptError(
      'NATIVE_MISSING',
      'there is no zstd here: Node.js has it from 22.15 on, and the package zstd-napi, installed beside vmckpt',
    );
  };
  return { bound: fail, compressor: fail, decompressor: fail };
}
