/** VMCKPT_DEBUG: every process of a save and a restore says what it does, and none says a word without it. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { VmFolder } from '../../src/vms/folder.js';
import { startBare } from '../support/bare.js';
import { useOwnFolders } from '../support/checkpointing.js';
import { startCli } from '../support/command.js';
import { until } from '../support/until.js';
import { suiteDirectory } from '../support/vitest.js';
import { freePort } from '../support/workloads.js';

const LINE = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (?<pid>\d+) (?<area>[a-z]+): ./;
const SECRET = 'do-not-tell';

/** A network that others could be in: its restored guest is announced there, by the aftercare. */
async function devices(): Promise<string[]> {
  const [here, there] = [await freePort(), await freePort()];
  const lan = `udp=127.0.0.1:${there},localaddr=127.0.0.1:${here}`;
  return [
    ...['-object', `secret,id=key,data=${SECRET}`],
    ...['-netdev', `socket,id=lan,${lan}`, '-device', 'virtio-net-pci,netdev=lan'],
  ];
}

/** The processes by the areas that they have told of: pid → areas. */
function toldBy(text: string): Map<string, Set<string>> {
  const processes = new Map<string, Set<string>>();
  for (const { groups } of text.split('\n').map((line) => LINE.exec(line) ?? { groups: undefined }))
    if (groups !== undefined)
      processes.set(groups['pid']!, (processes.get(groups['pid']!) ?? new Set()).add(groups['area']!));
  return processes;
}

function areasOf(text: string): string[] {
  return [...new Set([...toldBy(text).values()].flatMap((areas) => [...areas]))].sort();
}

describe('VMCKPT_DEBUG', () => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  let stop: () => Promise<unknown> = () => Promise.resolve();
  afterEach(() => stop());

  /** @returns what the two verbs, and the processes that they started, have written */
  async function saveAndRestore(name: string, env: Readonly<Record<string, string>>) {
    const guest = await startBare({ dir, extraArgs: await devices() });
    const run = (...args: string[]) => startCli(['--store', storeDir, ...args], { env }).ended;
    const save = await run('save', '--live', 'background-snapshot', `qmp:${guest.qmpSocket}`, name);
    await guest.stop();
    stop = () => run('stop', name);
    const restore = await run('restore', '--trust-command-line', name);
    for (const { code, stderr } of [save, restore]) expect({ code, stderr }).toMatchObject({ code: 0 });
    const log = () => readFileSync(path.join(new VmFolder(name).directory, 'transfer.log'), 'utf8');
    return { save: save.stderr, restore: restore.stderr, log };
  }

  it('shows what each process of a save and a restore does', async () => {
    const { save, restore, log } = await saveAndRestore('told', { VMCKPT_DEBUG: '1' });
    expect(areasOf(save)).toEqual(['launch', 'qmp', 'receiver', 'save', 'verb', 'worker']);
    expect(areasOf(restore)).toEqual(['launch', 'qmp', 'restore', 'verb']);
    // Nothing waits for the aftercare.
    await until('the end of the aftercare', () => /aftercare: ends/.test(log()));
    const areas = areasOf(log());
    expect(areas).toEqual(['aftercare', 'keeper', 'launch', 'qmp', 'serving']);
    // One process for each, the receiver beside the verb that saves.
    expect(toldBy(save).size).toBe(2);
    expect(toldBy(log()).size).toBe(3);
    expect(save + restore + log()).not.toContain(SECRET);
  });

  it('shows only the areas that it names', async () => {
    const { save, restore, log } = await saveAndRestore('named', { VMCKPT_DEBUG: 'keeper,save' });
    expect([areasOf(save), areasOf(restore), areasOf(log())]).toEqual([['save'], [], ['keeper']]);
  });

  it('costs no line when it is not set', async () => {
    const { save, restore, log } = await saveAndRestore('silent', { VMCKPT_DEBUG: '' });
    expect([areasOf(save), areasOf(restore), areasOf(log())]).toEqual([[], [], []]);
  });
});
