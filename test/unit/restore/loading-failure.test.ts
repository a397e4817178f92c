/** Which comes first: the VM that runs, or the failure of its server. */
import { expect, it } from 'vitest';
import { runsUnlessFailed } from '../../../src/restore/loading-failure.js';

const never = new Promise<never>(() => undefined);
const failed = Promise.reject<never>(new Error('a damaged extent'));
failed.catch(() => undefined);
const resumedLater = () => new Promise<number>((resolve) => setTimeout(resolve, 20, 4711));

it('lets a VM run whose server failed after it had loaded the machine, however late QEMU tells of it', async () => {
  const machineLoaded = Promise.resolve();
  expect(await runsUnlessFailed(resumedLater(), { failed, machineLoaded })).toBe(4711);
});

it('tells of a failure before that', async () => {
  const ran = runsUnlessFailed(resumedLater(), { failed, machineLoaded: never });
  await expect(ran).rejects.toThrow('a damaged extent');
});

it('waits for a failure no longer than until the VM runs', async () => {
  expect(await runsUnlessFailed(resumedLater(), { failed: never, machineLoaded: never })).toBe(4711);
});
