/** Starts the built command as a user does; it can be killed on its way. */
import { spawn } from 'node:child_process';
import { distFile } from '../../src/util/package-paths.js';
import { killAtExit } from './processes.js';

/** Ends a command that hangs, before its test is given up, so that what it has said is seen. */
const TIMEOUT_MS = 170_000;

export interface CliResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** What `--json` printed: the document on stdout, or the error on stderr. */
  readonly json: unknown;
}

export interface CliOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Put before the command: `setpriv …`. */
  readonly wrapper?: readonly string[];
}

export interface RunningCli {
  readonly pid: number;
  /** What it has said on stderr so far. */
  said(): string;
  /** Never rejects. A killed command has the code null. */
  readonly ended: Promise<CliResult>;
  /** Does nothing once it has ended. */
  kill(signal?: NodeJS.Signals): void;
}

export function startCli(args: readonly string[], { env = {}, wrapper = [] }: CliOptions = {}): RunningCli {
  const [program, ...rest] = [...wrapper, process.execPath, distFile('cli/main.js'), ...args];
  const child = spawn(program!, rest, {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: TIMEOUT_MS,
    killSignal: 'SIGKILL',
  });
  child.on('error', () => undefined); // told by the missing PID
  if (child.pid === undefined) throw new Error(`${program} cannot be started`);
  killAtExit(child.pid);
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const ended = new Promise<CliResult>((resolve) =>
    child.once('close', (code) => resolve({ code, stdout, stderr, json: parse(stdout) ?? parse(stderr) })),
  );
  return { pid: child.pid, said: () => stderr, ended, kill: (signal = 'SIGKILL') => void child.kill(signal) };
}

/** The last line is the document: messages may stand before it. */
function parse(text: string): unknown {
  try {
    return JSON.parse(text.trimEnd().split('\n').at(-1) ?? '');
  } catch {
    return undefined;
  }
}
