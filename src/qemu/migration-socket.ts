/** A connection to the socket on which an incoming QEMU listens. */
import net, { Socket } from 'node:net';
import { connectUnix, hasAddon } from '../native/index.js';

/**
 * @param readable false: native code reads QEMU's messages. Without the addon the connection is made a moment later,
 *   and an error comes as an event.
 */
export function connectTo(path: string, { readable }: { readonly readable: boolean }): Socket {
  return hasAddon() ? new Socket({ fd: connectUnix(path), readable }) : net.connect(path);
}
