/** System calls that Node.js lacks, made by a Perl process that lives for one of them. */
import { spawnSync } from 'node:child_process';
import os from 'node:os';
import util from 'node:util';
import { VmckptError } from '../errors.js';

/** The descriptors are 3 and 4. The script prints the errno and the resulting numbers. */
const CALLS = `
use strict;
my ($call, @arguments) = @ARGV;
open(my $it, '+<&=', 3) or die $!;
# struct flock: l_type, l_whence, l_start, l_len, l_pid; a write lock, from byte 0 to the end if nothing else is said
my ($start, $length) = $call eq 'F_OFD_GETLK' ? @arguments : (0, 0);
my $lock = pack('s s x![q] q q l x![q]', 1, 0, $start + 0, $length + 0, 0);
my %calls = (
  F_OFD_SETLK => sub { fcntl($it, 37, $lock) ? 0 : undef },
  F_OFD_GETLK => sub { fcntl($it, 36, $lock) ? unpack('s', $lock) : undef },
  F_SETPIPE_SZ => sub { fcntl($it, 1031, $arguments[0] + 0) ? 0 : undef },
  SO_PEERCRED => sub { my $peer = getsockopt($it, 1, 17); defined $peer ? unpack('i i i', $peer) : undef },
  SCM_RIGHTS => sub {
    # struct cmsghdr with descriptor 4, struct iovec, struct msghdr
    my $payload = join('', <STDIN>);
    my $control = pack('Q i i i x![Q]', 20, 1, 1, 4);
    my $vector = pack('P Q', $payload, length $payload);
    my $message = pack('Q L x![Q] P Q P Q i x![Q]', 0, 0, $vector, 1, $control, length $control, 0);
    my $sent = syscall($arguments[0] + 0, 3, $message, 0x4000);
    $sent < 0 ? undef : $sent;
  },
);
my @found = $calls{$call}->();
print defined $found[0] ? "0 @found" : 0 + $!;
`;

/**
 * Takes descriptor NUMBER of process PID with pidfd_open and pidfd_getfd, then executes COMMAND, which finds the number
 * in its environment.
 */
const TAKE = `
my ($pid, $number, @command) = @ARGV;
my $pidfd = syscall(434, $pid + 0, 0);
my $fd = $pidfd < 0 ? -1 : syscall(438, $pidfd, $number + 0, 0);
if ($fd >= 0) {
  open(our $taken, '+<&=', $fd);
  fcntl($taken, 2, 0); # stays open
  $ENV{VMCKPT_TAKEN} = $fd;
}
exit($fd < 0) unless @command;
exec { $command[0] } @command;
`;

const SENDMSG: Readonly<Record<string, number>> = { x64: 46, arm64: 211 };

export type PerlCall = 'F_OFD_SETLK' | 'F_OFD_GETLK' | 'F_SETPIPE_SZ' | 'SO_PEERCRED';

/** @returns the resulting numbers. @throws an Error like Node's own; VmckptError NATIVE_MISSING without Perl */
export function perlCall(call: PerlCall, fd: number, ...args: readonly number[]): number[] {
  return run(call, [fd], args.map(String), '');
}

/** Like sendFds(), for one descriptor. */
export function perlSendFd(socketFd: number, payload: Uint8Array, fd: number): void {
  const syscall = SENDMSG[process.arch];
  if (syscall === undefined) throw systemError(os.constants.errno.ENOSYS, 'sendmsg');
  run('SCM_RIGHTS', [socketFd, fd], [String(syscall)], payload);
}

/** Whether a command of `perlTaking()` would get the descriptor. */
export function perlMayTake(pid: number, fd: number): boolean {
  return spawnSync('perl', ['-e', TAKE, String(pid), String(fd)]).status === 0;
}

/** A command that first takes a descriptor of another process, if it may: see `taken()`. */
export function perlTaking(pid: number, fd: number, command: readonly string[]): string[] {
  return ['perl', '-e', TAKE, String(pid), String(fd), ...command];
}

/** The descriptor that `perlTaking()` passed to this process. */
export function taken(): number | undefined {
  const fd = process.env['VMCKPT_TAKEN'];
  return fd === undefined ? undefined : Number(fd);
}

function run(
  call: string,
  fds: readonly number[],
  args: readonly string[],
  input: string | Uint8Array,
): number[] {
  const { stdout, stderr, status, error } = spawnSync('perl', ['-e', CALLS, call, ...args], {
    // Not among the first three: those are made blocking, also for this process.
    stdio: ['pipe', 'pipe', 'pipe', ...fds],
    input,
  });
  if (error !== undefined || status !== 0) {
    const reason = error?.message ?? stderr.toString().trim();
    throw new VmckptError(
      'NATIVE_MISSING',
      `without the native addon Perl is needed, and it failed: ${reason}`,
      {
        hint: 'Install it (Debian and Ubuntu: apt install perl-base), or build the addon; vmckpt doctor says how.',
        cause: error,
      },
    );
  }
  const [errno = 0, ...found] = stdout.toString().split(' ').map(Number);
  if (errno !== 0) throw systemError(errno, SYSCALLS[call] ?? call);
  return found;
}

const SYSCALLS: Readonly<Record<string, string>> = {
  F_OFD_SETLK: 'fcntl',
  F_OFD_GETLK: 'fcntl',
  F_SETPIPE_SZ: 'fcntl',
  SO_PEERCRED: 'getsockopt',
  SCM_RIGHTS: 'sendmsg',
};

function systemError(errno: number, syscall: string): Error {
  const code = util.getSystemErrorName(-errno);
  return Object.assign(new Error(`${code}: ${syscall}`), { code, errno: -errno, syscall });
}
