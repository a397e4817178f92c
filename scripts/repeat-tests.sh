#!/usr/bin/env bash
# Repeats tests while every processor has other work to do, and says at the end which have failed, and how often:
#   scripts/repeat-tests.sh                                          all of test/fault and test/integration, 10 times
#   scripts/repeat-tests.sh --repeat 20 test/fault/damage.test.ts    one file
# With --no-load nothing else is done meanwhile.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
usage='usage: scripts/repeat-tests.sh [--repeat N] [--no-load] [FILE...]'
runs=10 load=$(nproc)
while [[ ${1:-} = -* ]]; do
  case $1 in
    --repeat)
      [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || die "$usage"
      runs=$2
      shift
      ;;
    --no-load) load=0 ;;
    *) die "$usage" ;;
  esac
  shift
done
[ $# -gt 0 ] || set -- test/fault test/integration
"$ROOT/scripts/setup.sh"
cd "$ROOT"

results=$(mktemp -d)
busy=()
trap 'kill "${busy[@]}" 2>/dev/null || :; rm -r "$results"' EXIT
for _ in $(seq "$load"); do
  (while :; do :; done) &
  busy+=($!)
done
for ((run = 1; run <= runs; run++)); do
  say "run $run of $runs"
  npx vitest run --reporter=default --reporter=json --outputFile.json="$results/$run.json" "$@" || :
done
node scripts/failures.js "$results"
