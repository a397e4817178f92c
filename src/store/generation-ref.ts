/** Names a generation for another process, or for later: plain JSON. */
import * as v from 'valibot';
import { integer } from '../util/schema.js';

export const generationRefSchema = v.object({
  name: v.string(),
  number: integer,
  dir: v.string(),
  /** The manifest's. Missing in records that an earlier version has written. */
  id: v.optional(v.string()),
});
export type GenerationRef = Readonly<v.InferOutput<typeof generationRefSchema>>;
