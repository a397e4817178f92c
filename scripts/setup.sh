#!/usr/bin/env bash
# Everything that scripts/demo.sh and scripts/test.sh need, from a fresh machine to a built project:
# Debian packages (through sudo where needed), npm's packages, the build, the test guests, QEMU 10 and 11, Ceph.
# Quick when repeated. With --without-newer-qemus the newer QEMUs and Ceph, which only tests need, are left out.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# package: why it is needed
PACKAGES=(
  'qemu-system-x86: runs the virtual machines'
  'qemu-utils: inspects disk images'
  'g++: compiles the native addon and the test guest'
  'make: the same'
  'python3: the same, for node-gyp'
  'libxxhash-dev: checksums in the native addon'
  'libzstd-dev: decompression in the native addon'
  'cpio: packs the test guest'
  'xz-utils: unpacks its kernel modules'
  'zstd: the same'
  'clang-format: checks the style of native/'
  'btrfs-progs: file systems for tests'
  'exfatprogs: the same'
  'exfat-fuse: the same'
)

check_node() {
  if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    die 'Node.js or npm is missing. Install Node.js 20.19 or newer with npm, and run this again.'
  fi
  node -e 'const [major, minor] = process.versions.node.split(".").map(Number);
    process.exit(major > 20 || (major === 20 && minor >= 19) ? 0 : 1)' ||
    die "Node.js $(node --version) is too old: 20.19 or newer is needed. Install one, and run this again."
}

# quietly COMMAND...: what it says is shown only when it fails.
quietly() {
  local log=$CACHE/setup.log
  "$@" >"$log" 2>&1 || {
    cat "$log" >&2
    return 1
  }
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "root is needed, and there is no sudo. As root run: $*"
  fi
}

refresh_lists() {
  say 'reading the package lists (apt-get update)'
  # One unreachable source does not matter as long as the others have what is needed.
  as_root apt-get -qq update || say 'some package lists could not be read; going on with those that could'
}

# One package of the main archive stands for all of them.
lists_present() { apt-cache show busybox-static >/dev/null 2>&1; }

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

install_packages() {
  local entry missing=()
  command -v apt-get >/dev/null ||
    die "this script installs packages on Debian and Ubuntu only. Elsewhere install what corresponds to: ${PACKAGES[*]}"
  lists_present || refresh_lists
  for entry in "${PACKAGES[@]}"; do
    is_installed "${entry%%:*}" || missing+=("$entry")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say 'installing packages that are missing:'
  printf '    %s\n' "${missing[@]}" >&2
  install_missing "${missing[@]%%:*}" || {
    refresh_lists
    install_missing "${missing[@]%%:*}"
  } || die "the packages could not be installed; see apt's message above."
}

install_missing() {
  quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq --yes --no-install-recommends install "$@"
}

# Where Node's own headers are installed, nothing has to be downloaded to compile against them.
use_installed_headers() {
  local prefix version
  prefix=$(dirname "$(dirname "$(readlink -f "$(command -v node)")")")
  version=$prefix/include/node/node_version.h
  [ -e "$version" ] || return 0
  [ "v$(awk '$2 ~ /^NODE_(MAJOR|MINOR|PATCH)_VERSION$/ {print $3}' "$version" | paste -sd.)" = "$(node --version)" ] ||
    return 0
  export npm_config_nodedir=$prefix
}

# once STAMP FINGERPRINT COMMAND...: runs the command unless it succeeded before with the same fingerprint.
once() {
  local stamp=$1 fingerprint=$2
  shift 2
  [ "$(cat "$stamp" 2>/dev/null)" != "$fingerprint" ] || return 0
  "$@"
  echo "$fingerprint" >"$stamp"
}

install_modules() {
  say 'installing npm packages (npm ci)'
  quietly npm ci --no-audit --no-fund --no-update-notifier
}

build_project() {
  say 'building vmckpt'
  quietly npm run --silent build
}

build_guest() {
  local status=0
  "$ROOT/fixtures/guest/build.sh" || status=$?
  [ "$status" -eq "$EXIT_STALE_LISTS" ] || return "$status"
  refresh_lists
  "$ROOT/fixtures/guest/build.sh"
}

# Side by side: most of the time is waiting for the archive. CI needs all but QEMU 11.
unpack_test_programs() {
  local status=0 qemu10 qemu11 ceph
  "$ROOT/fixtures/qemu.sh" 10 &
  qemu10=$!
  "$ROOT/fixtures/qemu.sh" 11 &
  qemu11=$!
  "$ROOT/fixtures/ceph.sh" &
  ceph=$!
  wait "$qemu10" || status=1
  wait "$ceph" || status=1
  [ "$status" -eq 0 ] || [ "${CI:-}" != true ] || die 'CI needs QEMU 10 and Ceph; see above.'
  wait "$qemu11" || status=1
  [ "$status" -eq 0 ] || say 'going on without what could not be had (see above): its tests will be skipped'
}

main() {
  local sources
  cd "$ROOT"
  with_lock setup
  check_node
  install_packages
  use_installed_headers
  once node_modules/.vmckpt-stamp "$(node --version) $(fingerprint package-lock.json)" install_modules
  mapfile -t sources < <(find src native binding.gyp package.json package-lock.json tsconfig*.json -type f | LC_ALL=C sort)
  mkdir -p dist
  once dist/.vmckpt-stamp "$(node --version) $(fingerprint "${sources[@]}")" build_project
  build_guest
  "$ROOT/fixtures/bare/build.sh"
  [ "${1:-}" = --without-newer-qemus ] || unpack_test_programs
}

main "$@"
