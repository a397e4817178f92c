/** Every length of the protocol has a maximum here (docs/protocol.md). What exceeds one ends the connection. */

/** Payload of a request or a result that is JSON. */
export const MAX_CONTROL_BYTES = 64 * 1024;
/** Bytes of a file in one frame, in either direction: so much is read, or kept, at a time. */
export const MAX_PIECE_BYTES = 256 * 1024;
/** Of a reference, `NAME@NUMBER`. */
export const MAX_REFERENCE_CHARS = 160;
/** The name of a file of a generation. */
export const MAX_FILE_NAME_BYTES = 64;
/** Ids of packs in one question. */
export const MAX_ASKED_PACKS = 1024;
/** Of an error's message, and of its hint. */
export const MAX_MESSAGE_CHARS = 1024;
/** Features that one side lists. */
export const MAX_FEATURES = 32;
/** Of a line in a listing. */
export const MAX_LISTING_LINE_BYTES = 16 << 20;

/** Lines of a listing. */
export const MAX_LISTED = 1_000_000;

/** Requests that a client may have under way on one connection. */
export const MAX_REQUESTS = 256;
/** Generations and pushes that a connection may have open. */
export const MAX_HANDLES = 32;
