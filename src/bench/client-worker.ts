/** The clients have a thread of their own. They keep their pace, whatever the measuring thread does. */
import { setMaxListeners } from 'node:events';
import { parentPort, workerData } from 'node:worker_threads';
import { startDownloads } from './clients/http.js';
import { AnswerLog, type ClientAnswers, type ClientJob } from './clients/load.js';
import { startGets, startPing } from './clients/memcached.js';

/** Main thread → clients: `begin` when the restore is ordered, `end` when all has been seen. */
export type ClientOrder = 'begin' | 'end';

const job = workerData as ClientJob;
const ending = new AbortController();
// Every connection listens to it.
setMaxListeners(0, ending.signal);
const logs = { ping: new AnswerLog(), memcached: new AnswerLog(), http: new AnswerLog() };

parentPort!.on('message', (order: ClientOrder) => {
  if (order === 'begin')
    begin().catch(() => undefined); // rejects only by the signal
  else end();
});

/** The others connect when the first one has found the guest. Many attempts at once would slow the guest down. */
async function begin(): Promise<void> {
  await startPing(job, logs.ping, ending.signal);
  if (job.withoutDownloads !== true) startDownloads(job, logs.http, ending.signal);
  await startGets(job, logs.memcached, ending.signal);
}

function end(): void {
  ending.abort();
  parentPort!.postMessage(logs satisfies ClientAnswers);
  parentPort!.close();
}
