/** What a description of a VM, and a manifest, keep about the QEMU process. */
import * as v from 'valibot';
import { natural, record, text } from './schema.js';

const MAX_LIST = 65536;

/** Ids from the kernel; valid until the host restarts. */
const placesSchema = record(v.pipe(text, v.maxLength(64)));
export type Places = v.InferOutput<typeof placesSchema>;

export const processContextSchema = v.object({
  /** The path of the running program, without symbolic links. */
  executable: v.optional(text),
  uid: natural,
  gid: natural,
  groups: v.pipe(v.array(natural), v.maxLength(MAX_LIST)),
  /** Identifies the host's boot. */
  bootId: text,
  /** `mount namespace`, `root folder`, … → its id in the kernel. */
  places: placesSchema,
  /** Those of them that the saver did not share. */
  elsewhere: v.array(text),
  cgroup: v.optional(text),
  /** Tap interfaces that the command line names, and whether they outlive QEMU. */
  taps: v.array(v.object({ name: text, persistent: v.boolean() })),
  /** Images that QEMU had open and that no longer exist under their names. */
  lostImages: v.array(text),
});
export type ProcessContext = v.InferOutput<typeof processContextSchema>;
