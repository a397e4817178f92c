/** Names a generation for another process, or for later, as plain JSON. */
import * as v from 'valibot';
import { integer } from '../util/schema.js';

export const generationRefSchema = v.object({
  name: v.string(),
  number: integer,
  dir: v.string(),
  /** `id` of the manifest. Missing in records of earlier versions. */
  id: v.optional(v.string()),
});
export type GenerationRef = Readonly<v.InferOutput<typeof generationRefSchema>>;
