import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** Collects garbage now. A collection stops this process for 20 ms, which must not fall into the next measurement. */
export function collectGarbage(): void {
  collect();
}
