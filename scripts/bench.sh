#!/usr/bin/env bash
# Sets everything up and measures vmckpt against stock QEMU: saves and restores of several sizes, as ratios beside
# what they are held to. With --json one document on stdout. Options: bench.ts, --help.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
"$ROOT/scripts/setup.sh"
run_typescript bench "$@"
