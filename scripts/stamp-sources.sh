#!/bin/sh
# stamp-sources.sh BUILT SOURCE...: notes in the folder BUILT what it was built from, for test/support/built-sources.ts.
set -eu
built=$1
shift
find "$@" -type f -exec sha256sum {} + | LC_ALL=C sort -k 2 >"$built/.sources"
