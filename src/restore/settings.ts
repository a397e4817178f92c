/** What QEMU's monitors had set in the saved VM: set again before the VM runs, and compared when it does. */
import type { Manifest } from '../checkpoint/manifest.js';
import type { LaunchPlan } from '../launch/launch-plan.js';
import {
  describeSetting,
  keyOf,
  keyOfPart,
  readSettings,
  SETTINGS,
  type Setting,
} from '../qemu/drift/settings.js';
import type { QmpClient } from '../qemu/qmp.js';

type Kept = NonNullable<Manifest['settings']>[number];

export interface Restored {
  readonly manifest: Manifest;
  readonly options: {
    /** A VM with another command line is another VM: no settings are carried over. */
    readonly qemuArgs: readonly string[] | undefined;
    readonly onMessage: (text: string) => void;
  };
}

/** Called before the VM runs. */
export async function replaySettings(qmp: QmpClient, { manifest, options }: Restored): Promise<void> {
  if (options.qemuArgs !== undefined) return;
  const replayed = (manifest.settings ?? []).filter(({ replay }) => replay);
  await Promise.all(
    replayed.map(async (setting) => {
      if (!(await apply(qmp, setting)))
        options.onMessage(`${describeSetting(setting)} cannot be set back to ${setting.value}.`);
    }),
  );
}

interface Started extends Restored {
  readonly plan: Pick<LaunchPlan, 'moved'>;
}

/**
 * Called when the VM runs; nothing waits for it. Settings that differ are set again, or reported. Settings that a clone
 * has on purpose in a place of its own are not compared. Never rejects.
 */
export async function compareSettings(qmp: QmpClient, { manifest, options, plan }: Started): Promise<void> {
  if (options.qemuArgs !== undefined) return;
  const { lost = [] } = manifest;
  const places = new Set(plan.moved.map(({ from }) => JSON.stringify(from)));
  const settings = manifest.settings?.filter(({ value }) => !places.has(value));
  // If the VM ends in the meantime, others report it.
  const found = settings === undefined ? [] : await differences(qmp, settings).catch(() => []);
  if (lost.length > 0) options.onMessage(`Not in the checkpoint: ${lost.join('; ')}.`);
  if (found.length > 0) options.onMessage(`Differs from the saved VM: ${found.join('; ')}.`);
}

async function differences(qmp: QmpClient, settings: readonly Kept[]): Promise<string[]> {
  const lost = new Set(settings.filter((setting) => setting.lost).map(keyOfPart));
  const isCompared = (setting: Setting) => !lost.has(keyOfPart(setting));
  const now = await valuesNow(qmp);
  const saved = settings.filter(
    (setting) => SETTINGS[setting.kind]?.read !== undefined && isCompared(setting),
  );
  const known = new Set(saved.map((setting) => keyOf(setting)));
  const gone = saved.filter((setting) => setting.name === 'type' && !now.has(keyOf(setting)));
  const added = [...now.values()].filter(
    (setting) => setting.name === 'type' && !known.has(keyOf(setting)) && isCompared(setting),
  );
  const changed = saved.filter((setting) => (now.get(keyOf(setting)) ?? setting).value !== setting.value);
  await Promise.all(changed.map((setting) => apply(qmp, setting)));
  const then = changed.length === 0 ? now : await valuesNow(qmp);
  const stays = await staying(qmp, changed, then);
  return [
    ...gone.map((setting) => `${describeSetting(setting)} is missing`),
    ...added.map((setting) => `${describeSetting(setting)} was not there`),
    ...stays.map(
      (setting) =>
        `${describeSetting(setting)} was ${setting.value} and is ${then.get(keyOf(setting))?.value ?? 'gone'}`,
    ),
  ];
}

/** The settings that still differ, except those that QEMU changes by itself. */
async function staying(
  qmp: QmpClient,
  changed: readonly Kept[],
  then: ReadonlyMap<string, Setting>,
): Promise<Kept[]> {
  const stays = changed.map(async (wanted) => {
    const shown = then.get(keyOf(wanted));
    if (shown?.value === wanted.value) return [];
    const isQemus = shown && SETTINGS[wanted.kind]?.isQemus?.(qmp, { wanted, shown });
    return (await isQemus) ? [] : [wanted];
  });
  return (await Promise.all(stays)).flat();
}

async function valuesNow(qmp: QmpClient): Promise<Map<string, Setting>> {
  return new Map((await readSettings(qmp)).map((setting) => [keyOf(setting), setting]));
}

/** @returns whether QEMU accepted it */
async function apply(qmp: QmpClient, setting: Setting): Promise<boolean> {
  try {
    await SETTINGS[setting.kind]?.apply?.(qmp, setting);
    return true;
  } catch {
    return false;
  }
}
