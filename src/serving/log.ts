/** The log of a serving process. The logger is loaded on first use, so that QEMU does not wait for it. */
export async function log(level: 'info' | 'error', fields: object, text: string): Promise<void> {
  const { pino } = await import('pino');
  pino({ base: { pid: process.pid } })[level](fields, text);
}
