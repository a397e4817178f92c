#!/usr/bin/env bash
# Kills vmckpt's processes at random moments of saves and restores of one guest, which must come back whole each
# time. Options: soak.ts, --help.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
"$ROOT/scripts/setup.sh"
run_typescript soak "$@"
