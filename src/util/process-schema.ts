/** What is kept of the process that a QEMU was: in a description of the VM, and in a manifest. */
import * as v from 'valibot';
import { natural, record, text } from './schema.js';

const MAX_LIST = 65536;

/** Ids of the kernel's, which hold until the host is started again. */
const placesSchema = record(v.pipe(text, v.maxLength(64)));
export type Places = v.InferOutput<typeof placesSchema>;

export const processContextSchema = v.object({
  /** The program that ran, without links. */
  executable: v.optional(text),
  uid: natural,
  gid: natural,
  groups: v.pipe(v.array(natural), v.maxLength(MAX_LIST)),
  /** Of the host's start. */
  bootId: text,
  /** `mount namespace`, `root folder`, … → the kernel's id of it. */
  places: placesSchema,
  /** Those of them in which the saver itself was not. */
  elsewhere: v.array(text),
  cgroup: v.optional(text),
  /** Tap interfaces that the command line names, and whether they outlive QEMU. */
  taps: v.array(v.object({ name: text, persistent: v.boolean() })),
  /** Images that QEMU had open, and that are not found under their names any more. */
  lostImages: v.array(text),
});
export type ProcessContext = v.InferOutput<typeof processContextSchema>;
