/** The log of a serving process. The logger is loaded when there is something to say, not while QEMU waits for its memory. */
export async function log(level: 'info' | 'error', fields: object, text: string): Promise<void> {
  const { pino } = await import('pino');
  pino({ base: { pid: process.pid } })[level](fields, text);
}
