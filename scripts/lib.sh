# shellcheck shell=bash
# Sourced by every script of the project: where things are, how to speak, how to fetch Debian packages
# without installing them. Sets ROOT and CACHE (VMCKPT_CACHE overrides the latter).
set -Eeuo pipefail
trap 'printf "[%s] failed at %s line %s: %s\n" "$(basename "$0")" "${BASH_SOURCE[0]}" "$LINENO" "$BASH_COMMAND" >&2' ERR

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${VMCKPT_CACHE:-$ROOT/.cache}
mkdir -p "$CACHE"
CACHE=$(cd "$CACHE" && pwd)
export ROOT CACHE

# Exit code of a script that could not download packages: fresh package lists may help.
EXIT_STALE_LISTS=75

# say MESSAGE: progress on stderr, so that stdout stays free for results.
say() { printf '\033[2m[%s]\033[0m %s\n' "$(basename "$0")" "$*" >&2; }

# die MESSAGE: what is wrong and what to do about it.
die() {
  printf '[%s] %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# need COMMAND...: fails with one message that names everything that is missing.
need() {
  local missing=()
  for command in "$@"; do
    command -v "$command" >/dev/null || missing+=("$command")
  done
  [ ${#missing[@]} -eq 0 ] || die "missing commands: ${missing[*]}. scripts/setup.sh installs what the project needs."
}

# fingerprint FILE...: one hash over names and contents, for "has anything changed since" stamps.
fingerprint() { sha256sum -- "$@" | sha256sum | cut -d' ' -f1; }

# with_lock NAME: until this script ends no other one that names the same lock goes on beyond this line.
with_lock() {
  exec 9>"$CACHE/$1.lock"
  flock --wait 1800 9 || die "another process has held $CACHE/$1.lock for half an hour; end it and try again."
}

# fetch_packages DIRECTORY [APT OPTION...] -- PACKAGE...: downloads packages and unpacks them into
# DIRECTORY/root. Installs nothing; needs no root.
fetch_packages() {
  local directory=$1 options=()
  shift
  # As root, apt would hand the download to a user that may not write here.
  [ "$(id -u)" -ne 0 ] || options+=(-o APT::Sandbox::User=root)
  while [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  shift
  mkdir -p "$directory/debs" "$directory/root"
  (cd "$directory/debs" && apt-get -qq "${options[@]}" download "$@") ||
    {
      printf '[%s] apt-get could not download: %s. Run apt-get update and try again.\n' "$(basename "$0")" "$*" >&2
      exit "$EXIT_STALE_LISTS"
    }
  local package
  for package in "$directory"/debs/*.deb; do
    dpkg-deb -x "$package" "$directory/root"
  done
}

# run_typescript NAME ARGUMENT...: compiles scripts/NAME.ts with what it imports, and runs it in our place.
run_typescript() {
  local name=$1
  shift
  (cd "$ROOT" && npx tsc -p tsconfig.scripts.json)
  exec node "$ROOT/.cache/scripts/scripts/$name.js" "$@"
}
