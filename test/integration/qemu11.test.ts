import { matrix } from '../support/matrix.js';
import { describeOnQemu11 } from '../support/vitest.js';

describeOnQemu11('a guest', () => matrix('11', 'tcg'));
