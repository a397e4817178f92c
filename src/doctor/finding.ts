/** What one examination has found. */

export interface Finding {
  /** Stable, for scripts: `userfaultfd`, `qemu`, … */
  readonly check: string;
  /** `warn`: something is limited · `fail`: something does not work at all. */
  readonly status: 'ok' | 'warn' | 'fail';
  /** What was looked at. */
  readonly title: string;
  readonly found: string;
  /** What that means for the user, when not all is well. */
  readonly meaning?: string | undefined;
  /** The command that mends it. */
  readonly remedy?: string | undefined;
}
