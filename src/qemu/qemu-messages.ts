/** QEMU's error messages and what they mean: one table, matched against the end of its log. */
import type { ErrorCode } from '../errors.js';
import { asRoot } from '../util/rights.js';

/** QEMU continues after these (7.2 lists modules that it does not find), or has given the reason before. */
const WARNING =
  /^((.*: (warning|info): |qemu: module \S+ not found).*|.*: load of migration failed: [^:\n]*)(\n|$)/gm;

/** This QEMU does not know a part of a command line, or was built without it. */
const NOT_IN_THIS_QEMU = [
  /' is not a valid /,
  /Parameter '[^']*' (does not accept value|is unexpected|is missing|expects)/,
  /Invalid parameter|invalid option|option requires an argument|Property '[^']*' not found/,
  /\b(unknown|unsupported|invalid) ([\w-]+ )?(type|driver|protocol|model|accelerator|option)\b/,
  /VGA not available|' is not available|not available (in|with) this/,
  /There is no option group|does not support the option|fsdriver \S+ not found|could not add USB device/,
  /Unable to load module|Perhaps you want to install/,
  /No '[^']*' bus found|Bus '[^']*' not found/,
  /not (compiled|built|supported) (in|into|with|by)\b|doesn't support requested features?/,
];

interface KnownMessage {
  readonly pattern: RegExp;
  /** For what is impossible, rather than failed just now. */
  readonly code?: ErrorCode;
  readonly meaning: string;
}

const KNOWN_MESSAGES: readonly KnownMessage[] = [
  // starting
  {
    pattern: /Could not set up host forwarding rule/i,
    meaning:
      'QEMU could not take a host port that the VM forwards (hostfwd). Either it is in use: end its owner, or the original VM. Or the user of QEMU may not listen there, as below 1024.',
  },
  {
    pattern: /Failed to get (shared )?"\w+" lock|Is another process using the image/i,
    meaning: 'Another process holds a disk image open: most likely the original VM still runs.',
  },
  {
    pattern: /unsupported machine type/i,
    code: 'QEMU_INCOMPATIBLE',
    meaning:
      'This QEMU does not know the machine type of the saver: use a QEMU at least as new, or one that still has the type (--qemu names it).',
  },
  {
    pattern: /memory-backend-file\.rom' not found/i,
    code: 'QEMU_INCOMPATIBLE',
    meaning: 'This QEMU is older than the saver’s: use one that is at least as new (--qemu names it).',
  },
  {
    pattern: /cannot set up guest memory|Cannot allocate memory/i,
    meaning: 'The host has not enough free memory for the VM.',
  },
  {
    pattern: /Could not access KVM kernel module: Permission denied/i,
    code: 'NOT_PERMITTED',
    meaning: 'This user may not use KVM: give it access to /dev/kvm (group kvm).',
  },
  {
    pattern: /Could not access KVM kernel module|failed to initialize kvm/i,
    code: 'QEMU_INCOMPATIBLE',
    meaning: 'KVM is not usable here: load its module. `vmckpt doctor` tries it.',
  },
  {
    pattern: /CPU model '[^']*' requires KVM|host CPU model requires/i,
    code: 'QEMU_INCOMPATIBLE',
    meaning: 'The VM was saved with the CPU model of its host under KVM, and this host offers no KVM.',
  },
  {
    pattern: /unable to find CPU model|Invalid CPU model/i,
    code: 'QEMU_INCOMPATIBLE',
    meaning: 'This QEMU does not know the CPU model of the saver.',
  },
  {
    pattern: /could not configure \/dev\/net\/tun|could not open \/dev\/net\/tun/i,
    meaning: 'The tap interface is in use, or this user may not open it.',
  },
  {
    pattern: /Failed to bind socket[^\n]*No such file or directory/i,
    meaning: 'The folder in which QEMU is to make a socket does not exist: make it, and try again.',
  },
  {
    pattern:
      /(Failed to (bind|unlink) socket|Failed to find an available port|can't bind)[^\n]*(Permission denied|Operation not permitted)/i,
    code: 'NOT_PERMITTED',
    meaning:
      'The user of QEMU may not listen there: give it the right to the folder of the socket, or to ports below 1024.',
  },
  {
    pattern: /Address already in use/i,
    meaning: 'An address where QEMU is to listen is in use: most likely the original VM still runs.',
  },
  {
    pattern: /Cannot assign requested address/i,
    meaning: 'An address where QEMU is to listen is not one of this host.',
  },
  {
    pattern: /Could not open '[^']*': Permission denied/i,
    code: 'NOT_PERMITTED',
    meaning: 'QEMU may not open a file that the VM had open: give its user the right to it.',
  },
  {
    pattern: /Could not open '[^']*'|could not load (kernel|PC BIOS|initrd)|No such file or directory/i,
    meaning: 'A file of the VM is not where it was when the VM was saved.',
  },
  {
    pattern: /cannot create PID file/i,
    meaning: 'The pid file belongs to a running process.',
  },
  {
    pattern: /(gtk|sdl) initialization failed|Could not initialize SDL/i,
    meaning: 'The VM has a window, and there is no graphical session here.',
  },
  {
    pattern: anyOf(NOT_IN_THIS_QEMU),
    code: 'QEMU_INCOMPATIBLE',
    meaning:
      "This QEMU does not have, or not understand, a part of the saver's command line: it is older, newer or built differently. Restore with the saver's QEMU (--qemu names it), or install the package that holds the part (often a QEMU module package).",
  },
  // loading
  {
    pattern: /Machine type received is '[^']*' and local is/i,
    code: 'QEMU_INCOMPATIBLE',
    meaning: 'The machine type differs from the one that was saved.',
  },
  {
    pattern: /Missing section footer/i,
    code: 'QEMU_INCOMPATIBLE',
    meaning:
      "A device loaded less or more state than was saved: its configuration or QEMU's version differs.",
  },
  {
    pattern: /Unknown (savevm )?section or instance/i,
    code: 'QEMU_INCOMPATIBLE',
    meaning:
      'The checkpoint holds the state of a device that this VM does not have: the devices must be the same.',
  },
  {
    pattern: /Unknown ramblock|Unknown ram ?block/i,
    code: 'QEMU_INCOMPATIBLE',
    meaning:
      'The checkpoint holds memory that this VM does not have: memory, firmware and devices must be the same.',
  },
  {
    pattern: /Size mismatch|Length mismatch/i,
    code: 'QEMU_INCOMPATIBLE',
    meaning:
      'A RAM block has another size than in the checkpoint: memory (-m), firmware and option ROMs must be the same.',
  },
  {
    pattern: /unsupported version|incompatible section version|savevm section version/i,
    code: 'QEMU_INCOMPATIBLE',
    meaning: 'A device state is newer than this QEMU: use a QEMU at least as new as the saver.',
  },
  {
    pattern:
      /userfaultfd not available|Userfault(fd)?.*(not supported|not permitted)|Postcopy is not supported/i,
    code: 'QEMU_INCOMPATIBLE',
    meaning: `QEMU may not use userfaultfd. ${asRoot('Run it', 'CAP_SYS_PTRACE')}, set vm.unprivileged_userfaultfd=1 (sysctl), or restore with --mode eager.`,
  },
  {
    pattern: /error while loading state|(loadvm failed|Failed to load (vmstate|section))[^\n]*: -22\b/i,
    code: 'QEMU_INCOMPATIBLE',
    meaning: 'A device refused its state: its configuration differs from the saved one.',
  },
];

/** @param logTail the end of QEMU's log. @returns the meaning of the first known message in it */
export function explainQemuMessage(logTail: string): string | undefined {
  return knownIn(logTail)?.meaning;
}

/** The error code for a QEMU that ends with this log, if it is more specific than a failure. */
export function codeOfQemuMessage(logTail: string): ErrorCode | undefined {
  return knownIn(logTail)?.code;
}

function knownIn(logTail: string): KnownMessage | undefined {
  const words = withoutWarnings(logTail);
  return KNOWN_MESSAGES.find(({ pattern }) => pattern.test(words));
}

/** The log without messages that are not the reason of QEMU's end. */
export function withoutWarnings(logTail: string): string {
  return logTail.replaceAll(WARNING, '').trim();
}

function anyOf(patterns: readonly RegExp[]): RegExp {
  return new RegExp(patterns.map(({ source }) => source).join('|'), 'i');
}
