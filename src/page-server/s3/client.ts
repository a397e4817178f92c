/**
 * The AWS SDK, which is loaded when a store in a bucket is opened, and may not be installed. It finds credentials, region
 * and endpoint where it always does: in the environment, and in the profiles of the user.
 */
import type * as Sdk from '@aws-sdk/client-s3';
import { VmckptError } from '../../errors.js';

const PACKAGE = '@aws-sdk/client-s3';
/** Demanded reads must not wait for a socket behind the parts of a pack. */
const MAX_SOCKETS = 128;
const CONNECT_TIMEOUT_MS = 5_000;
/** Without a byte. */
const SILENCE_TIMEOUT_MS = 30_000;
const MAX_ATTEMPTS = 4;

export interface S3 {
  readonly sdk: typeof Sdk;
  readonly client: Sdk.S3Client;
  /** Milliseconds that the engine's clock is ahead of ours, as its last answer says. */
  aheadMs: number;
}

/** @throws VmckptError S3_CLIENT_MISSING */
export async function openClient(): Promise<S3> {
  const sdk = await loadSdk();
  const client = new sdk.S3Client({
    maxAttempts: MAX_ATTEMPTS,
    requestHandler: {
      connectionTimeout: CONNECT_TIMEOUT_MS,
      socketTimeout: SILENCE_TIMEOUT_MS,
      httpAgent: { maxSockets: MAX_SOCKETS },
      httpsAgent: { maxSockets: MAX_SOCKETS },
    },
    ...endpointSettings(),
  });
  const s3 = { sdk, client, aheadMs: 0 };
  client.middlewareStack.add(
    (next) => async (input) => {
      const output = await next(input);
      const { headers } = output.response as { headers?: Record<string, string> };
      const dateMs = Date.parse(headers?.['date'] ?? '');
      if (!Number.isNaN(dateMs)) s3.aheadMs = dateMs - Date.now();
      return output;
    },
    { step: 'deserialize', name: 'noteClock', priority: 'low' },
  );
  return s3;
}

async function loadSdk(): Promise<typeof Sdk> {
  // It would say on stderr when its releases will need a newer Node.js: nothing that a user of vmckpt can act on.
  process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] ??= 'true';
  try {
    return await import('@aws-sdk/client-s3');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error;
    throw new VmckptError('S3_CLIENT_MISSING', `stores in buckets need the package ${PACKAGE}`, {
      hint: `Install it beside vmckpt: npm install --global ${PACKAGE}`,
      cause: error,
    });
  }
}

/** Engines other than Amazon's have no host name for each bucket, and mostly no regions. */
function endpointSettings(): Sdk.S3ClientConfig {
  const { AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, AWS_REGION } = process.env;
  if ((AWS_ENDPOINT_URL_S3 ?? AWS_ENDPOINT_URL) === undefined) return {};
  return { forcePathStyle: true, ...(AWS_REGION === undefined && { region: 'us-east-1' }) };
}

/** What a failed request means. @param what that was asked for, for messages: `s3://bucket/web` */
export function requestFailure(error: unknown, what: string): unknown {
  if (!(error instanceof Error) || error instanceof VmckptError) return error;
  const { $metadata } = error as Partial<Sdk.S3ServiceException>;
  const status = $metadata?.httpStatusCode;
  const failed = (code: 'NO_STORE' | 'NOT_PERMITTED' | 'NO_SPACE' | 'FAILED', hint: string) =>
    new VmckptError(code, `${what}: the engine answered ${error.name}`, { hint, cause: error });
  if (error.name === 'NoSuchBucket') return failed('NO_STORE', 'Create the bucket, or name another one.');
  if (error.name === 'NoSuchUpload')
    return new VmckptError('STORE_LOCKED', `${what}: another push has ended the upload of a file`, {
      hint: 'Push again: what is there is not sent once more.',
      cause: error,
    });
  if (error.name === 'QuotaExceeded') return failed('NO_SPACE', 'Remove generations, then vmckpt prune.');
  if (error.name === 'CredentialsProviderError')
    return new VmckptError('NOT_PERMITTED', `${what}: there are no credentials`, {
      hint: 'Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.',
      cause: error,
    });
  if (error.message === 'Region is missing')
    return new VmckptError('USAGE', `${what}: its region is not known`, {
      hint: 'Set AWS_REGION, for another engine than that of Amazon AWS_ENDPOINT_URL.',
      cause: error,
    });
  if (status === 401 || status === 403)
    return failed('NOT_PERMITTED', 'Check the credentials, and the policies of the bucket.');
  if (status === undefined || status >= 500 || status === 429 || status === 408)
    return unavailable(error, what);
  return failed('FAILED', 'vmckpt -v shows its whole answer.');
}

function unavailable(error: Error, what: string): VmckptError {
  const reason = (error as NodeJS.ErrnoException).code ?? error.name;
  return new VmckptError('SOURCE_UNAVAILABLE', `${what} does not answer: ${reason}`, {
    hint: 'Try again when it can be reached.',
    cause: error,
  });
}
