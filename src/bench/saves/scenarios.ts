/** What `vmckpt bench save` compares. A name stands in the report and is never reused for something else. */

/** What the guest does meanwhile. */
export interface Load {
  readonly title: string;
  /** What the guest's verifier is told to rewrite; it sleeps in between, so that it comes to a little less. */
  readonly writeMbps: number;
  /** The guest rewrites nothing under this load. */
  readonly isIdle: boolean;
}

export const LOADS = {
  rest: { title: 'at rest', writeMbps: 20, isIdle: true },
  steady: { title: 'rewriting 20 MB/s', writeMbps: 20, isIdle: false },
  /** Software emulation cannot write so fast. */
  full: { title: 'rewriting as fast as it can', writeMbps: 2000, isIdle: false },
} as const satisfies Record<string, Load>;
export type LoadName = keyof typeof LOADS;
export const LOAD_NAMES = Object.keys(LOADS) as LoadName[];

/** The order is that of the report. */
export const SAVE_SCENARIOS = {
  'qemu-background-snapshot': 'QEMU, background snapshot to a file',
  'qemu-stopped': 'QEMU, stopped, to a file',
  'qemu-mapped-ram': 'QEMU, stopped, mapped-ram + multifd',
  'vmckpt-stream': "vmckpt, through QEMU's stream",
  'vmckpt-first': 'vmckpt, first save',
  'vmckpt-next': 'vmckpt, next save, nothing tracked',
  'vmckpt-tracked': 'vmckpt, second save, tracked',
  'vmckpt-tracked-last': 'vmckpt, last save of the chain, tracked',
  undisturbed: 'clients without captures',
  'every-10s': 'clients beside a capture every 10 s',
  'every-1s': 'clients beside a capture every second',
  'restore-full': 'restore of a first save',
  'restore-chain': 'restore of the last save of a chain',
} as const satisfies Record<string, string>;
export type SaveScenario = keyof typeof SAVE_SCENARIOS;
