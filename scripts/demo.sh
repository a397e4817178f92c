#!/usr/bin/env bash
# Sets everything up, saves a running Linux VM, kills it and brings it back: by stock QEMU, eagerly and lazily.
# With --json one document on stdout. Options: demo.ts, --help.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
if [[ " $* " =~ \ --qemu[=\ ]1[01]\  ]]; then
  "$ROOT/scripts/setup.sh"
else
  "$ROOT/scripts/setup.sh" --without-newer-qemus
fi
run_typescript demo "$@"
