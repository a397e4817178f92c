#!/usr/bin/env bash
# Kills vmckpt's processes and QEMU at random moments of saves and restores of one guest, which must come back whole
# each time, or saves it a thousand times. Options: soak.ts, --help.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
"$ROOT/scripts/setup.sh"
run_typescript soak "$@"
