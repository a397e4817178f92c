/** The current images of drives: media are ejected and exchanged, and a snapshot puts another image on top. */
import * as v from 'valibot';
import { propertyOf, withProperties, type Option } from '../command-line.js';
import { givenDrives, withImage, type GivenDrive } from '../given-images.js';
import { isSamePlace, placeOfName } from '../image-reference.js';
import { isTemporaryImage } from '../inspect.js';

/** Formats for `format=` that have a file below them. */
const FORMATS: ReadonlySet<string> = new Set(
  'raw qcow2 qcow qed vdi vmdk vpc vhdx dmg cloop bochs parallels luks'.split(' '),
);

export const DriveNow = v.object({
  device: v.string(),
  qdev: v.optional(v.string()),
  removable: v.boolean(),
  inserted: v.optional(
    v.object({
      file: v.string(),
      drv: v.string(),
      'node-name': v.string(),
      backing_file: v.optional(v.string()),
    }),
  ),
});
export type DriveNow = v.InferOutput<typeof DriveNow>;

/** The command line with the images that `query-block` shows. Ambiguous drives stay as they were given. */
export function withMedia(options: readonly Option[], now: readonly DriveNow[], cwd: string): Option[] {
  const own = [...options];
  for (const { given, drive } of pairs(givenDrives(options), now, cwd)) {
    const { inserted } = drive;
    if (inserted === undefined) {
      if (given.place !== undefined && drive.removable) own[given.index] = withImage(given.option, undefined);
    } else if (
      !hasImage(given, inserted, cwd) &&
      FORMATS.has(inserted.drv) &&
      !inserted.file.startsWith('json:')
    )
      own[given.index] = withImage(given.option, { file: inserted.file, format: inserted.drv });
  }
  return own.map((option) => withoutMedium(option, now));
}

interface Pair {
  readonly given: GivenDrive;
  readonly drive: DriveNow;
}

/** Matches drives by id; those without one by image; what is left of each kind by order. */
function pairs(given: readonly GivenDrive[], now: readonly DriveNow[], cwd: string): Pair[] {
  const ids = new Set(given.flatMap(({ id }) => id ?? []));
  const found = given.flatMap((each) => {
    const drive = now.find(({ device }) => device !== '' && device === each.id);
    return drive === undefined ? [] : [{ given: each, drive }];
  });
  const left = new Set(now.filter(({ device }) => device !== '' && !ids.has(device)));
  const changed = given.filter((each) => {
    if (each.id !== undefined) return false;
    const same = [...left].find(({ inserted }) => hasImage(each, inserted, cwd));
    return same === undefined || !left.delete(same);
  });
  for (const kind of ['cd', 'hd', 'floppy', 'sd', 'virtio', 'pflash', 'mtd']) {
    const wanted = changed.filter((each) => kindOfGiven(each) === kind);
    const drives = [...left].filter(({ device }) => kindOfName(device) === kind);
    drives.sort((a, b) => (a.device < b.device ? -1 : 1));
    if (wanted.length === drives.length)
      found.push(...wanted.map((each, index) => ({ given: each, drive: drives[index]! })));
  }
  return found;
}

function kindOfGiven({ option }: GivenDrive): string {
  if (option.name !== 'drive')
    return /^hd/.test(option.name) ? 'hd' : (SHORT_KINDS[option.name] ?? option.name);
  if (propertyOf(option, 'media') === 'cdrom') return 'cd';
  const where = propertyOf(option, 'if') ?? 'hd';
  return ['ide', 'scsi'].includes(where) ? 'hd' : where;
}

const SHORT_KINDS: Readonly<Record<string, string>> = {
  cdrom: 'cd',
  fda: 'floppy',
  fdb: 'floppy',
  mtdblock: 'mtd',
};

/** `ide2-cd0`, `floppy0`, `virtio1`: names that QEMU generates. */
function kindOfName(device: string): string | undefined {
  return /^(?:[a-z]+\d+-)?([a-z]+)\d+$/.exec(device)?.[1];
}

function hasImage({ place }: GivenDrive, inserted: DriveNow['inserted'], cwd: string): boolean {
  if (inserted === undefined || place === undefined) return inserted === undefined && place === undefined;
  const { file, backing_file: below } = inserted;
  return isSamePlace(place, placeOfName(isTemporaryImage(file) && below !== undefined ? below : file), cwd);
}

/** A device whose `drive` was a node, and which is now empty. */
function withoutMedium(option: Option, now: readonly DriveNow[]): Option {
  const id = option.name === 'device' ? propertyOf(option, 'id') : undefined;
  if (id === undefined || propertyOf(option, 'drive') === undefined) return option;
  const drive = now.find(({ qdev }) => qdev === id || qdev === `/machine/peripheral/${id}`);
  const isEmptied = drive?.removable === true && drive.device === '' && drive.inserted === undefined;
  return isEmptied ? withProperties(option, { drive: undefined }) : option;
}
