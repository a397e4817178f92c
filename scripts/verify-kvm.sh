#!/usr/bin/env bash
# The demonstration and `vmckpt bench resume` under hardware KVM, where its authors never measured vmckpt's speed, and
# a verdict that can be pasted into an issue. Needs /dev/kvm; changes nothing outside of .cache and OUT.
# usage: scripts/verify-kvm.sh [OUT] [-- OPTIONS OF vmckpt bench resume]
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

BOOT_SECONDS=60
OUT=$CACHE/verify-kvm
[ $# -eq 0 ] || [ "$1" = -- ] || {
  OUT=$1
  shift
}
[ "${1:-}" != -- ] || shift

# not_here REASON: nothing is wrong with vmckpt, there is only nothing to verify.
not_here() {
  say "$*"
  say 'Nothing was verified. With software emulation: scripts/demo.sh.'
  exit 2
}

require_kvm() {
  [ -e /dev/kvm ] || not_here 'there is no /dev/kvm: this machine, or the VM that it is, offers no hardware virtualisation.'
  [ -r /dev/kvm ] && [ -w /dev/kvm ] ||
    not_here "$(id -un) may not use /dev/kvm. As root, or: sudo usermod -aG kvm $(id -un), and log in again."
}

# Some machines have the device and cannot run a guest with it: nested without support, for example.
boots_under_kvm() {
  local log=$OUT/boot.log
  "$QEMU" -machine q35 -accel kvm -m 256M -no-user-config -nodefaults -display none \
    -no-reboot -kernel "$CACHE/guest/vmlinuz" -initrd "$CACHE/guest/initramfs.cpio" \
    -append 'console=ttyS0 quiet panic=-1 vmckpt.fill_mb=32' -serial stdio </dev/null >"$log" 2>&1 &
  local qemu=$!
  # Ends with QEMU, or with the guest's own word.
  for ((tenths = 0; tenths < BOOT_SECONDS * 10; tenths++)); do
    grep -q '^GUEST READY' "$log" && break
    kill -0 "$qemu" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$qemu" 2>/dev/null || true
  wait "$qemu" 2>/dev/null || true
  grep -q '^GUEST READY' "$log"
}

# judge NAME COMMAND...: runs it, its output in NAME.log, and notes how it went.
judge() {
  local name=$1 log=$OUT/$1.log
  shift
  say "$name (log: $log)"
  if "$@" >"$log" 2>&1; then
    VERDICTS+=("- $name: passed")
  else
    VERDICTS+=("- $name: FAILED, exit code $?; its last words: $(tail -n 3 "$log" | tr '\n' ' ')")
    FAILED=1
  fi
}

print_verdict() {
  echo '### vmckpt under hardware KVM'
  printf '%s\n' "${VERDICTS[@]}"
  echo
  echo "- $("$QEMU" --version | head -n1); kernel $(uname -r); $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n1), $(nproc) CPUs"
  echo "- vmckpt $(node -p 'require(process.argv[1]).version' "$ROOT/package.json") ($(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || echo 'no commit'))"
  echo
  echo '```'
  cat "$OUT/demo.log"
  [ ! -e "$OUT/report.json" ] || cat "$OUT/bench.log"
  echo '```'
}

main() {
  require_kvm
  "$ROOT/scripts/setup.sh"
  mkdir -p "$OUT"
  rm -f "$OUT"/report.json "$OUT"/report.html
  QEMU=$CACHE/qemu10/qemu-system-x86_64
  [ -x "$QEMU" ] || QEMU=$(command -v qemu-system-x86_64)
  VERDICTS=() FAILED=0
  # The shell's own word on the process that it kills is no news.
  boots_under_kvm 2>/dev/null ||
    not_here "QEMU did not boot the test guest with KVM within $BOOT_SECONDS s: $(tail -n 3 "$OUT/boot.log" | tr '\n' ' ')"
  judge demo "$ROOT/scripts/demo.sh" --accel kvm --qemu "$QEMU" --rounds 3
  judge bench node "$ROOT/dist/cli/main.js" bench resume --accel kvm --qemu "$QEMU" --guest "$CACHE/guest" --out "$OUT" "$@"
  print_verdict | tee "$OUT/verdict.md"
  say "the verdict is in $OUT/verdict.md, the report in $OUT/report.html"
  exit "$FAILED"
}

main "$@"
