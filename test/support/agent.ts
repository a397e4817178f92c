/** The agent in the test guest, to look at the guest from inside. */
import path from 'node:path';
import { GuestAgent } from '../../src/qemu/guest-agent.js';
import { BACKSTOP_MS } from './until.js';

/** Arguments of a QEMU whose guest starts its agent, with the channel's socket in `dir`. */
export function agentArgs(dir: string): string[] {
  return [
    ...['-device', 'virtio-serial-pci'],
    ...['-chardev', `socket,id=agent,path=${path.join(dir, 'agent.sock')},server=on,wait=off`],
    ...['-device', 'virtserialport,chardev=agent,name=org.qemu.guest_agent.0'],
  ];
}

/** What a shell of the guest prints for `script`. */
export async function inGuest(agentSocket: string, script: string): Promise<string> {
  const agent = await GuestAgent.connect(agentSocket, { timeoutMs: BACKSTOP_MS });
  try {
    const { exitCode, output, errorOutput } = await agent.run('/bin/sh', ['-c', script]);
    if (exitCode !== 0) throw new Error(`${script}: exit code ${exitCode}, ${errorOutput}`);
    return output.trim();
  } finally {
    agent.close();
  }
}
