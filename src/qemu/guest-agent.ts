/**
 * QEMU's guest agent, a program in the guest: JSON lines over a channel (virtio-serial) that QEMU provides as a
 * socket. It runs one command at a time and may be absent, so every answer has a deadline. Source: QEMU's "Guest
 * Agent Protocol Reference".
 */
import { once } from 'node:events';
import net from 'node:net';
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { poll, withDeadline } from '../util/deadline.js';
import { finite, parse } from '../util/schema.js';
import { characterDeviceOf } from './character-device.js';
import { parseCommandLine, propertyOf } from './command-line.js';

const CHANNEL_NAME = 'org.qemu.guest_agent.0';
/** The guest may be one of many that have just started on a busy host. */
const ANSWER_TIMEOUT_MS = 30_000;
/** What was sent before the agent listened is lost, so it is asked again, at growing intervals if it is only slow. */
const FIRST_SYNC_MS = 500;
/** The guest may be hostile: longer lines are not accepted. */
const MAX_LINE_CHARS = 1 << 20;
/** The agent begins its answer to guest-sync-delimited with this byte, which no JSON text contains. */
const DELIMITER = '\xff';

const Reply = v.object({
  return: v.optional(v.unknown()),
  error: v.optional(v.object({ desc: v.string() })),
});
const Interfaces = v.array(v.object({ name: v.string(), 'hardware-address': v.optional(v.string()) }));
const Started = v.object({ pid: finite });
const ProcessState = v.object({
  exited: v.boolean(),
  exitcode: v.optional(finite),
  'out-data': v.optional(v.string()),
  'err-data': v.optional(v.string()),
});

export interface GuestInterface {
  readonly name: string;
  /** Lower case, with colons. */
  readonly macAddress: string;
}

export interface GuestProcessEnd {
  /** Undefined when a signal ended the program. */
  readonly exitCode: number | undefined;
  readonly output: string;
  readonly errorOutput: string;
}

/** The socket of the agent's channel in a command line. Undefined if there is none, or QEMU does not listen there. */
export function agentSocketOf(args: readonly string[]): string | undefined {
  const options = parseCommandLine(args);
  const channel = options.find(
    (option) => option.name === 'device' && propertyOf(option, 'name') === CHANNEL_NAME,
  );
  const id = channel && propertyOf(channel, 'chardev');
  if (id === undefined) return undefined;
  const devices = options.filter(({ name }) => name === 'chardev').map(characterDeviceOf);
  const device = devices.find((candidate) => candidate?.id === id);
  return device?.server === true ? device.path : undefined;
}

interface Question {
  readonly command: string;
  readonly args: object;
}

interface Line {
  readonly text: string;
  /** For an answer to guest-sync-delimited: only those have the delimiter. */
  readonly isDelimited: boolean;
}

export class GuestAgent {
  readonly #socket: net.Socket;
  #received = '';
  /** An answer to an abandoned question is still outstanding. It could be mistaken for the answer to the next one. */
  #owesAnswer = false;
  /** The ids sent in guest-sync-delimited since the last synchronization. */
  readonly #syncIds = new Set<unknown>();
  #onLine: ((line: string) => void) | undefined;
  /** Rejects when the channel has ended: no answer can come any more. */
  readonly #closed: Promise<never>;

  private constructor(socket: net.Socket) {
    this.#socket = socket.setEncoding('latin1');
    socket.on('error', () => undefined); // then it closes
    this.#closed = new Promise((_resolve, reject) => {
      socket.once('close', () => reject(new Error('the channel to the guest agent was closed')));
    });
    this.#closed.catch(() => undefined); // raced with every answer
    socket.on('data', (text) => this.#receive(String(text)));
  }

  /** Returns when the agent answers. @throws VmckptError AGENT_SILENT, or the signal's reason */
  static async connect(
    path: string,
    { timeoutMs, signal }: { readonly timeoutMs: number; readonly signal?: AbortSignal },
  ): Promise<GuestAgent> {
    const socket = net.connect({ path });
    const agent = new GuestAgent(socket);
    try {
      await once(socket, 'connect', signal === undefined ? {} : { signal });
      await Promise.race([agent.#synchronize(timeoutMs, signal), agent.#closed]);
      return agent;
    } catch (cause) {
      agent.close();
      signal?.throwIfAborted();
      throw new VmckptError('AGENT_SILENT', `no guest agent answers at ${path}`, {
        hint: 'Install and start qemu-guest-agent in the guest.',
        cause,
      });
    }
  }

  /** @throws VmckptError AGENT_SILENT when no answer comes in time, AGENT_REFUSED with the agent's own words */
  async execute(command: string, args: object = {}): Promise<unknown> {
    const line = await this.#askInTurn({ command, args }).catch((cause: unknown) => {
      throw new VmckptError('AGENT_SILENT', `the guest agent does not answer ${command}`, { cause });
    });
    const { return: value, error } = parse(Reply, JSON.parse(line));
    if (error === undefined) return value;
    throw new VmckptError('AGENT_REFUSED', `the guest agent refused ${command}: ${error.desc}`);
  }

  /** Sets the guest's clock. @param nowMs since 1970 */
  async setTime(nowMs: number): Promise<void> {
    await this.execute('guest-set-time', { time: Math.round(nowMs) * 1_000_000 });
  }

  /** The interfaces that have a MAC address. */
  async interfaces(): Promise<GuestInterface[]> {
    const found = parse(Interfaces, await this.execute('guest-network-get-interfaces'));
    return found.flatMap(({ name, 'hardware-address': address }) =>
      address === undefined ? [] : [{ name, macAddress: address.toLowerCase() }],
    );
  }

  /** Runs a program in the guest to its end. */
  async run(program: string, args: readonly string[]): Promise<GuestProcessEnd> {
    const options = { path: program, arg: args, 'capture-output': true };
    const { pid } = parse(Started, await this.execute('guest-exec', options));
    const end = await poll(
      async () => {
        const state = parse(ProcessState, await this.execute('guest-exec-status', { pid }));
        return state.exited ? state : undefined;
      },
      { what: `${program} to end in the guest`, timeoutMs: ANSWER_TIMEOUT_MS, everyMs: 20 },
    );
    const decode = (data = '') => Buffer.from(data, 'base64').toString();
    return {
      exitCode: end.exitcode,
      output: decode(end['out-data']),
      errorOutput: decode(end['err-data']),
    };
  }

  close(): void {
    this.#socket.destroy();
  }

  /** Makes the agent drop earlier commands, and drops its answers to them. @throws VmckptError TIMEOUT */
  async #synchronize(timeoutMs: number, signal?: AbortSignal): Promise<void> {
    // Only an answer to an id sent from here on proves that all earlier answers have come.
    this.#syncIds.clear();
    let waitMs = FIRST_SYNC_MS;
    const sync = async (): Promise<true | undefined> => {
      const answered = await this.#sync(waitMs);
      waitMs *= 2;
      return answered;
    };
    await poll(sync, { what: 'the agent', timeoutMs, everyMs: FIRST_SYNC_MS / 5, signal });
  }

  /**
   * Repeats until the last one is answered. The agent also answers the delimiter before each one, with an error that
   * has no delimiter itself. A slow agent has answered an earlier one by then, and is waited for.
   */
  async #sync(timeoutMs: number): Promise<true | undefined> {
    const id = Math.floor(Math.random() * 2 ** 31);
    this.#syncIds.add(id);
    let isThere = false;
    const answer = this.#hear((line) => {
      const answered = line.isDelimited ? returned(line.text) : undefined;
      isThere ||= this.#syncIds.has(answered);
      return answered === id;
    });
    this.#send({ command: 'guest-sync-delimited', args: { id } }, DELIMITER);
    const within = (timeoutMs: number) => withDeadline(answer, { what: 'the guest agent', timeoutMs });
    try {
      await within(timeoutMs).catch((error: unknown) => {
        if (!isThere) throw error;
        return within(ANSWER_TIMEOUT_MS);
      });
      return true;
    } catch {
      return undefined;
    }
  }

  /** @returns the answer to this question, not a late one to an earlier question */
  async #askInTurn(question: Question): Promise<string> {
    if (this.#owesAnswer) await Promise.race([this.#synchronize(ANSWER_TIMEOUT_MS), this.#closed]);
    this.#owesAnswer = true;
    const answer = this.#hear(({ isDelimited }) => !isDelimited);
    this.#send(question);
    const text = await withDeadline(answer, {
      what: `the guest agent to answer ${question.command}`,
      timeoutMs: ANSWER_TIMEOUT_MS,
    });
    this.#owesAnswer = false;
    return text;
  }

  #send({ command, args }: Question, before = ''): void {
    const text = `${JSON.stringify({ execute: command, arguments: args })}\n`;
    this.#socket.write(Buffer.concat([Buffer.from(before, 'latin1'), Buffer.from(text)]));
  }

  /** The text of the first matching line; rejects when the channel has ended. */
  #hear(isWanted: (line: Line) => boolean): Promise<string> {
    const heard = new Promise<string>((resolve) => {
      this.#onLine = (line) => {
        const at = line.lastIndexOf(DELIMITER);
        const text = Buffer.from(line.slice(at + 1), 'latin1').toString();
        if (isWanted({ text, isDelimited: at !== -1 })) resolve(text);
      };
    });
    return Promise.race([heard, this.#closed]);
  }

  #receive(text: string): void {
    const lines = (this.#received + text).split('\n');
    this.#received = lines.pop()!;
    if (this.#received.length > MAX_LINE_CHARS) this.#socket.destroy();
    for (const line of lines) this.#onLine?.(line);
  }
}

/** Undefined when it is not an answer. */
function returned(text: string): unknown {
  try {
    return parse(Reply, JSON.parse(text)).return;
  } catch {
    return undefined;
  }
}
