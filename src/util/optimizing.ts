import { setFlagsFromString } from 'node:v8';

/**
 * Whether V8 compiles what this process runs often, in threads beside it. It should not while something else is waited
 * for that needs the processors: most of what a process runs in its first 100 ms it never runs again.
 */
export function setOptimizing(wanted: boolean): void {
  setFlagsFromString(wanted ? '--opt' : '--no-opt');
}
