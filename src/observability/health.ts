import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Clock } from './clock.ts'

/** Whether the process still does its rounds. A control plane that is away does not make it unhealthy: a restart would not help. */
export interface Health {
  /** An attempt began or ended, successful or not. */
  beat(): void
  isAlive(): boolean
}

export const createHealth = (clock: Clock, staleAfterMs: () => number): Health => {
  let last = clock.monotonic()
  return {
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

/** `GET /healthz`: 200 `ok` or 503 `stale`; everything else is 404. Rejects when the address cannot be listened on. */
export const serveHealth = async (health: Health, host: string, port: number): Promise<HealthServer> => {
  const server = createServer((request, response) => {
    const asked = request.url === '/healthz' && (request.method === 'GET' || request.method === 'HEAD')
    const alive = health.isAlive()
    response.writeHead(asked ? (alive ? 200 : 503) : 404, { 'content-type': 'text/plain', connection: 'close' })
    response.end(asked ? (alive ? 'ok\n' : 'stale\n') : 'not found\n')
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
