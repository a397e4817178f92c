/** What a page server counts, over all connections. */
import { LANES, type Lane } from '../contracts.js';

/** Upper bounds of the classes of service times, in ms; one more class is above the last. */
export const SERVICE_TIMES_MS = [0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 1000] as const;

export interface LaneCounters {
  requests: number;
  bytes: number;
  serviceMs: number;
  /** How many requests were in each class of service times. */
  readonly classes: number[];
}

export class ServerCounters {
  connections = 0;
  acceptedConnections = 0;
  droppedConnections = 0;
  receivedBytes = 0;
  readonly lanes: Readonly<Record<Lane, LaneCounters>>;
  /** By their codes. */
  readonly errors = new Map<string, number>();

  constructor() {
    const empty = (): LaneCounters => ({
      requests: 0,
      bytes: 0,
      serviceMs: 0,
      classes: new Array<number>(SERVICE_TIMES_MS.length + 1).fill(0),
    });
    this.lanes = { demand: empty(), predicted: empty(), rest: empty() };
  }

  /** A read was answered. */
  countRead(lane: Lane, { bytes, serviceMs }: { readonly bytes: number; readonly serviceMs: number }): void {
    const counters = this.lanes[lane];
    counters.requests++;
    counters.bytes += bytes;
    counters.serviceMs += serviceMs;
    const at = SERVICE_TIMES_MS.findIndex((bound) => serviceMs <= bound);
    counters.classes[at < 0 ? SERVICE_TIMES_MS.length : at]!++;
  }

  countError(code: string): void {
    this.errors.set(code, (this.errors.get(code) ?? 0) + 1);
  }

  /** For the request `statistics`. */
  summary(): Record<string, number> {
    const { connections, acceptedConnections, droppedConnections, receivedBytes } = this;
    const perLane = LANES.flatMap((lane) => [
      [`${lane}Requests`, this.lanes[lane].requests],
      [`${lane}Bytes`, this.lanes[lane].bytes],
    ]);
    return {
      connections,
      acceptedConnections,
      droppedConnections,
      receivedBytes,
      ...(Object.fromEntries(perLane) as Record<string, number>),
    };
  }
}
