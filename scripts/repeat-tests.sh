#!/usr/bin/env bash
# Repeats test files while every processor has other work to do, and counts the runs that fail:
#   scripts/repeat-tests.sh --repeat 20 test/fault/damage.test.ts
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
[ "${1:-}" = --repeat ] && [ $# -ge 3 ] || die 'usage: scripts/repeat-tests.sh --repeat N FILE...'
runs=$2 failed=0
shift 2
"$ROOT/scripts/setup.sh"
cd "$ROOT"

load=()
trap 'kill "${load[@]}"' EXIT
for _ in $(seq "$(nproc)"); do
  (while :; do :; done) &
  load+=($!)
done
for ((run = 1; run <= runs; run++)); do
  npx vitest run "$@" || failed=$((failed + 1))
  say "$run of $runs runs, $failed failed"
done
[ "$failed" -eq 0 ]
