import type { Socket } from 'node:net';
import * as v from 'valibot';
import { natural, parse } from './schema.js';

/** Node shows the descriptor of a socket only on the handle below it. */
const SocketHandle = v.object({ fd: natural });

/** It belongs to the socket still. */
export function descriptorOf(socket: Socket): number {
  return parse(SocketHandle, Reflect.get(socket, '_handle')).fd;
}
