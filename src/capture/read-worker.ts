/** Worker thread of the page reader. Answers how many milliseconds it took. */
import { workerData } from 'node:worker_threads';
import { answerRequests } from '../checkpoint/worker-team.js';
import { fillSlab, type ReadRequest } from './page-slab.js';

export interface ReadWorkerData {
  readonly pid: number;
}

const { pid } = workerData as ReadWorkerData;

answerRequests<ReadRequest, number>((request) => fillSlab(pid, request));
