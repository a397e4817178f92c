/** Names a generation for another process, or for later, as plain JSON. */
import * as v from 'valibot';
import { integer } from '../util/schema.js';

/** The stores that a generation in the cache arrives from, and how they are reached (src/page-server). */
export const elsewhereSchema = v.object({
  /** Of replicas. */
  addresses: v.array(v.string()),
  tlsDir: v.optional(v.string()),
  insecurePlaintext: v.optional(v.boolean()),
});
export type Elsewhere = Readonly<v.InferOutput<typeof elsewhereSchema>>;

export const generationRefSchema = v.object({
  name: v.string(),
  number: integer,
  dir: v.string(),
  /** `id` of the manifest. Missing in records of earlier versions. */
  id: v.optional(v.string()),
  /** Missing for a generation of a store on this host. */
  elsewhere: v.optional(elsewhereSchema),
});
export type GenerationRef = Readonly<v.InferOutput<typeof generationRefSchema>>;
