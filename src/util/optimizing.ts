import { setFlagsFromString } from 'node:v8';

/**
 * Whether V8 optimizes hot code in background threads. It should not while something that needs the processors is
 * awaited: most code that a process runs in its first 100 ms never runs again.
 */
export function setOptimizing(wanted: boolean): void {
  setFlagsFromString(wanted ? '--opt' : '--no-opt');
}
