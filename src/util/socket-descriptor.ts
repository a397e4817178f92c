import type { Socket } from 'node:net';
import * as v from 'valibot';
import { natural, parse } from './schema.js';

/** Node exposes a socket's descriptor only on its internal handle. */
const SocketHandle = v.object({ fd: natural });

/** The socket still owns the descriptor. */
export function descriptorOf(socket: Socket): number {
  return parse(SocketHandle, Reflect.get(socket, '_handle')).fd;
}
