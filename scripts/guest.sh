#!/usr/bin/env bash
# Boots the test guest to play with, and says how to reach it; Ctrl-C ends it. Options: guest.ts, --help.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
"$ROOT/scripts/setup.sh"
run_typescript guest "$@"
