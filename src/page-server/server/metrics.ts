/** What a page server has counted, as text for Prometheus, by HTTP. */
import { once } from 'node:events';
import type { Server } from 'node:http';
import { VmckptError } from '../../errors.js';
import { formatAddress, type Address } from '../address.js';
import { LANES } from '../contracts.js';
import { SERVICE_TIMES_MS, type ServerCounters } from './counters.js';

const REQUEST_MS = 5000;

/** @throws VmckptError USAGE, FAILED */
export async function serveMetrics(address: Address, counters: ServerCounters): Promise<Server> {
  if (address.kind === 'tls')
    throw new VmckptError('USAGE', `${formatAddress(address)} is no address for metrics`, {
      hint: 'They are read without TLS: use tcp:// or unix:.',
    });
  const http = process.getBuiltinModule('node:http');
  const server = http.createServer(
    { requestTimeout: REQUEST_MS, headersTimeout: REQUEST_MS },
    (request, response) => {
      const isKnown = request.method === 'GET' && request.url === '/metrics';
      response.writeHead(isKnown ? 200 : 404, { 'Content-Type': 'text/plain; version=0.0.4' });
      response.end(isKnown ? metricsText(counters) : '');
    },
  );
  try {
    if (address.kind === 'unix') server.listen(address.path);
    else server.listen(address.port, address.host);
    await once(server, 'listening');
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new VmckptError('FAILED', `cannot listen on ${formatAddress(address)}: ${reason}`, { cause });
  }
  return server;
}

/** The exposition format, version 0.0.4. */
export function metricsText(counters: ServerCounters): string {
  const { connections, acceptedConnections, droppedConnections, receivedBytes, lanes, errors } = counters;
  return [
    ...family('connections', 'gauge', 'Clients that are connected.', [['', connections]]),
    ...family('accepted_connections_total', 'counter', 'Clients that have connected.', [
      ['', acceptedConnections],
    ]),
    ...family('dropped_connections_total', 'counter', 'Connections that the server has ended.', [
      ['', droppedConnections],
    ]),
    ...family('received_bytes_total', 'counter', 'Bytes from clients.', [['', receivedBytes]]),
    ...family(
      'read_bytes_total',
      'counter',
      'Bytes of packs and files, by lane.',
      LANES.map((lane) => [`{lane="${lane}"}`, lanes[lane].bytes]),
    ),
    ...family(
      'errors_total',
      'counter',
      'Requests that were refused, by code.',
      [...errors].map(([code, count]) => [`{code="${code}"}`, count]),
    ),
    ...family(
      'read_seconds',
      'histogram',
      'From the arrival of a read to its last byte, by lane.',
      serviceTimes(counters),
    ),
    '',
  ].join('\n');
}

type Sample = readonly [labels: string, value: number];

function family(name: string, type: string, help: string, samples: readonly Sample[]): string[] {
  const full = `vmckpt_${name}`;
  const lines = samples.map(([labels, value]) => `${full}${labels} ${value}`);
  return [`# HELP ${full} ${help}`, `# TYPE ${full} ${type}`, ...lines];
}

function serviceTimes({ lanes }: ServerCounters): Sample[] {
  return LANES.flatMap((lane) => {
    const { classes, requests, serviceMs } = lanes[lane];
    let sum = 0;
    const buckets = classes.map((count, at): Sample => {
      sum += count;
      const bound = SERVICE_TIMES_MS[at];
      return [`_bucket{lane="${lane}",le="${bound === undefined ? '+Inf' : bound / 1000}"}`, sum];
    });
    return [
      ...buckets,
      [`_sum{lane="${lane}"}`, serviceMs / 1000] satisfies Sample,
      [`_count{lane="${lane}"}`, requests] satisfies Sample,
    ];
  });
}
