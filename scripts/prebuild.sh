#!/usr/bin/env bash
# Puts what was built where the package looks for it on hosts without a compiler (src/native/addon.ts, zstd.ts). They
# run with the C library of this host, or a newer one.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need node strip
cd "$ROOT"
target=prebuilds/linux-$(node -p process.arch)-glibc
rm -rf prebuilds
mkdir -p "$target"
for file in vmckpt_native.node vmckpt-receiver vmckpt-keeper vmckpt-no-holes vmckpt-tracker; do
  strip --strip-unneeded -o "$target/$file" "build/Release/$file"
done
strip --strip-unneeded -o "$target/zstd.node" node_modules/zstd-napi/build/Release/binding.node
cp node_modules/zstd-napi/NOTICE "$target/zstd-napi.NOTICE"
cp node_modules/zstd-napi/LICENSE "$target/zstd-napi.LICENSE"
cp node_modules/zstd-napi/deps/zstd/LICENSE "$target/zstd.LICENSE"
