import { matrix } from '../support/matrix.js';
import { describeUnderKvm } from '../support/vitest.js';

describeUnderKvm('a guest', (qemu) => matrix(qemu, 'kvm'));
