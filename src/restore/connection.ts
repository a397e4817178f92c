/** A connection to the socket on which an incoming QEMU listens. */
import net, { Socket } from 'node:net';
import * as v from 'valibot';
import { connectUnix, hasAddon } from '../native/index.js';
import { natural, parse } from '../util/schema.js';

/** Node shows the descriptor of a socket only on the handle below it. */
const SocketHandle = v.object({ fd: natural });

/**
 * @param readable false: what QEMU says is read by native code. Without the addon it connects a moment later, and an
 * error comes as an event.
 */
export function connectTo(path: string, { readable }: { readonly readable: boolean }): Socket {
  return hasAddon() ? new Socket({ fd: connectUnix(path), readable }) : net.connect(path);
}

export function descriptorOf(socket: Socket): number {
  return parse(SocketHandle, Reflect.get(socket, '_handle')).fd;
}
