/** What of the host a command line lays claim to, as far as two QEMUs cannot have it at once. */
import path from 'node:path';
import { characterDeviceOf } from './character-device.js';
import { isOn, parseCommandLine, propertiesOf, propertyOf, type Option } from './command-line.js';

export type HostResource =
  | { readonly kind: 'port'; readonly protocol: 'tcp' | 'udp'; readonly host: string; readonly port: number }
  | { readonly kind: 'socket' | 'pidfile' | 'memoryFile'; readonly path: string }
  | { readonly kind: 'tap'; readonly interface: string }
  | { readonly kind: 'vsock'; readonly cid: number };

/** A claim and the option that makes it. */
export interface Claim {
  readonly option: string;
  readonly resource: HostResource;
}

const VNC_BASE_PORT = 5900;

/** @param cwd what relative paths in `args` are meant from */
export function collisionCandidates(args: readonly string[], cwd: string): Claim[] {
  return parseCommandLine(args).flatMap((option) =>
    resourcesOf(option, cwd).map((resource) => ({
      option: `-${option.name} ${option.value ?? ''}`,
      resource,
    })),
  );
}

function resourcesOf(option: Option, cwd: string): HostResource[] {
  const { name, value = '' } = option;
  const device = characterDeviceOf(option);
  if (device?.backend === 'socket' && device.server) {
    if (device.path !== undefined) return [{ kind: 'socket', path: path.resolve(cwd, device.path) }];
    return portOf('tcp', device.host ?? '', Number(device.port));
  }
  if (name === 'pidfile') return [{ kind: 'pidfile', path: path.resolve(cwd, value) }];
  if (name === 'netdev' || name === 'nic' || name === 'net') return networkResources(option);
  if (name === 'vnc' || name === 'display') return vncResources(option, cwd);
  if (name === 'object') return memoryFileOf(option, cwd);
  if (name === 'device') {
    const cid = propertyOf(option, 'guest-cid');
    return cid === undefined ? [] : [{ kind: 'vsock', cid: Number(cid) }];
  }
  return [];
}

/** Memory that the guest writes into a file. */
function memoryFileOf(option: Option, cwd: string): HostResource[] {
  const file = propertyOf(option, 'mem-path');
  if (file === undefined || !isOn(propertyOf(option, 'share'))) return [];
  return [{ kind: 'memoryFile', path: path.resolve(cwd, file) }];
}

function networkResources(option: Option): HostResource[] {
  const type = propertyOf(option, 'type');
  if (type === 'tap') {
    const name = propertyOf(option, 'ifname');
    return name === undefined || name.includes('%') ? [] : [{ kind: 'tap', interface: name }];
  }
  if (type !== 'user') return [];
  const forwards = propertiesOf(option).filter(({ key }) => /^(ipv6-)?hostfwd(\.|$)/.test(key));
  return forwards.flatMap(({ value }) => {
    // [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport, an IPv6 address in brackets.
    const match = /^(tcp|udp)?:(\[[^\]]*\]|[^:]*):(\d+)-/.exec(value);
    if (match === null) return [];
    return portOf(match[1] === 'udp' ? 'udp' : 'tcp', match[2] ?? '', Number(match[3]));
  });
}

/** A display number is a port above 5900; `to=` lets QEMU look for another one. */
function vncResources(option: Option, cwd: string): HostResource[] {
  const listen = propertyOf(option, 'vnc');
  if (listen === undefined || propertyOf(option, 'to') !== undefined) return [];
  if (listen.startsWith('unix:'))
    return [{ kind: 'socket', path: path.resolve(cwd, listen.slice('unix:'.length)) }];
  const match = /^(.*):(\d+)$/.exec(listen);
  return match === null ? [] : portOf('tcp', match[1] ?? '', VNC_BASE_PORT + Number(match[2]));
}

function portOf(protocol: 'tcp' | 'udp', host: string, port: number): HostResource[] {
  if (!Number.isInteger(port) || port <= 0 || port > 0xffff) return [];
  return [{ kind: 'port', protocol, host: host.replace(/^\[|\]$/g, ''), port }];
}
