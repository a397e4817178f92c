#!/usr/bin/env bash
# Runs every command that README.md shows, against a real guest; see readme-commands.ts. Root runs them a second time as a
# plain user, who has nothing but a home.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A copy of what the commands need: the clone may lie where a plain user cannot look.
copy_for_plain_user() {
  local to=$1
  mkdir -p "$to/clone/.cache" "$to/cache/guest" "$to/home" "$to/tmp"
  cp -r "$ROOT"/{package.json,README.md,dist,build,node_modules} "$to/clone"
  cp -r "$ROOT/.cache/scripts" "$to/clone/.cache"
  cp -p "$CACHE"/guest/{vmlinuz,initramfs.cpio,disk.img} "$to/cache/guest"
}

# Ends what a failed run has left: every process of the user, whom we have made up.
end_plain_user() {
  local pids
  mapfile -t pids < <(ps -o pid= -U "$1")
  [ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" || true
  rm -rf "$2" "/tmp/vmckpt-$1"
}

run_as_plain_user() {
  user=$((59000 + $$ % 1000))
  [ -z "$(ps -o pid= -U "$user")" ] || die "user $user has processes; run this again."
  folder=$(mktemp -d)
  trap 'end_plain_user "$user" "$folder"' EXIT
  copy_for_plain_user "$folder"
  chown -R "$user:$user" "$folder"
  say "the same as a plain user ($user)"
  (cd "$folder/home" && setpriv --reuid="$user" --regid="$user" --clear-groups env -i \
    PATH="$PATH" HOME="$folder/home" TMPDIR="$folder/tmp" VMCKPT_CACHE="$folder/cache" \
    node "$folder/clone/.cache/scripts/scripts/readme-commands.js" --alone)
}

"$ROOT/scripts/setup.sh" --without-newer-qemus
(run_typescript readme-commands "$@")
[ "$(id -u)" -ne 0 ] || run_as_plain_user
