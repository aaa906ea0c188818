import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Clock } from './clock.ts'
import type { Metrics } from './metrics.ts'

/** Whether the process still does its rounds. A control plane that is away does not make it unhealthy: a restart would not help. */
export interface Health {
  /** An attempt began or ended, successful or not. */
  beat(): void
  /** The control plane has answered a claim. */
  claimed(): void
  isAlive(): boolean
  /** Null: jobs get here, and what they give will be valid at the right time. Else why not. */
  notReady(): string | null
}

/** A claim waits for 25 s at most where nothing is said. */
const READY_FOR_MS = 90_000

export interface HealthOptions {
  readonly clock: Clock
  readonly staleAfterMs: () => number
  /** Whether our clock and the control plane's agree. */
  readonly isClockSane: () => boolean
}

export const createHealth = ({ clock, staleAfterMs, isClockSane }: HealthOptions): Health => {
  let last = clock.monotonic()
  let claimedAt = Number.NEGATIVE_INFINITY
  return {
    claimed: () => {
      claimedAt = clock.monotonic()
    },
    notReady: () => {
      if (clock.monotonic() - claimedAt > READY_FOR_MS) return 'no claim has succeeded for 90 s'
      return isClockSane() ? null : 'the clock is more than 60 s off'
    },
    beat: () => {
      last = clock.monotonic()
    },
    isAlive: () => clock.monotonic() - last <= staleAfterMs(),
  }
}

export interface HealthServer {
  readonly port: number
  close(): Promise<void>
}

const listen = (server: Server, host: string, port: number): Promise<void> =>
  new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => resolve())
  })

interface Answer {
  readonly status: number
  readonly type: string
  readonly body: string
}

const plain = (status: number, body: string): Answer => ({ status, type: 'text/plain', body: `${body}\n` })

const answerTo = async (path: string, health: Health, metrics: Metrics): Promise<Answer> => {
  if (path === '/metrics') return { status: 200, type: metrics.contentType, body: await metrics.text() }
  if (path === '/readyz') {
    const why = health.notReady()
    return why === null ? plain(200, 'ready') : plain(503, why)
  }
  if (path !== '/healthz') return plain(404, 'not found')
  return health.isAlive() ? plain(200, 'ok') : plain(503, 'stale')
}

/**
 * `GET /healthz`: 200 `ok` or 503 `stale`; `GET /readyz`: 200 `ready` or 503 and why; `GET /metrics`: for Prometheus; everything else is 404. Rejects when the address
 * cannot be listened on.
 */
export const serveHealth = async (
  health: Health,
  metrics: Metrics,
  host: string,
  port: number,
): Promise<HealthServer> => {
  const server = createServer((request, response) => {
    const isRead = request.method === 'GET' || request.method === 'HEAD'
    const answer = answerTo(isRead ? (request.url ?? '') : '', health, metrics)
    answer
      .catch(() => plain(500, 'failed'))
      .then(({ status, type, body }) => {
        response.writeHead(status, { 'content-type': type, connection: 'close' })
        response.end(body)
      })
  })
  await listen(server, host, port)
  server.unref()
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}
