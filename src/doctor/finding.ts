/** The result of one examination. */

export interface Finding {
  /** Stable, for scripts: `userfaultfd`, `qemu`, … */
  readonly check: string;
  /** `warn`: something is limited · `fail`: something does not work at all. */
  readonly status: 'ok' | 'warn' | 'fail';
  /** What was examined. */
  readonly title: string;
  readonly found: string;
  /** What a problem means for the user. */
  readonly meaning?: string | undefined;
  /** The command that fixes it. */
  readonly remedy?: string | undefined;
}
