#!/usr/bin/env bash
# Runs every command that README.md shows, against a real guest; see readme-commands.ts.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
"$ROOT/scripts/setup.sh" --without-newer-qemus
run_typescript readme-commands "$@"
