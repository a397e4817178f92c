#!/usr/bin/env bash
# Sets everything up and runs the tests. Arguments go to vitest: scripts/test.sh test/unit
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
"$ROOT/scripts/setup.sh"
cd "$ROOT"
exec npx vitest run "$@"
