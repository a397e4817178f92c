#!/usr/bin/env bash
# Records the demand faults of lazy restores of a real guest into fixtures/traces, for the tests of the predictor.
# Options: record-traces.ts, --help.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
"$ROOT/scripts/setup.sh"
run_typescript record-traces "$@"
