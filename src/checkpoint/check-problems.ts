/** What a check has found. */
import { VmckptError, type ErrorCode } from '../errors.js';

const MAX_LISTED_PROBLEMS = 100;

export interface CheckProblem {
  readonly code: ErrorCode;
  readonly message: string;
}

export class ProblemList {
  readonly #listed: CheckProblem[] = [];
  #count = 0;

  get report(): { problems: readonly CheckProblem[]; problemCount: number } {
    return { problems: this.#listed, problemCount: this.#count };
  }

  /** A damaged index chunk is met from many places and listed once. */
  add(code: ErrorCode, message: string): void {
    if (this.#listed.some((problem) => problem.message === message)) return;
    this.#count++;
    if (this.#listed.length < MAX_LISTED_PROBLEMS) this.#listed.push({ code, message });
  }

  /** What the step returns, or undefined when it finds damage, which is then listed. */
  async catching<T>(step: () => T | Promise<T>): Promise<T | undefined> {
    try {
      return await step();
    } catch (error) {
      if (!(error instanceof VmckptError)) throw error;
      if (error.kind !== 'damaged' && error.kind !== 'incompatible') throw error;
      this.add(error.code, error.message);
      return undefined;
    }
  }
}
