import { expect, test } from 'vitest';
import * as library from '../../src/index.js';

test('the library shows exactly what it promises', () => {
  expect(Object.keys(library).sort()).toEqual([
    'CheckpointReader',
    'EXIT_CODES',
    'Store',
    'VmckptError',
    'checkCheckpoint',
    'exportMachine',
    'importMachine',
    'prune',
    'restore',
    'save',
    'takeOver',
  ]);
});
