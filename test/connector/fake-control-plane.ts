import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import {
  ClaimRequest,
  DeregisterRequest,
  type Knobs,
  RegisterRequest,
  RenewRequest,
  type Report,
  ReportRequest,
} from '../../src/protocol/calls.ts'

// A real HTTP server that speaks the protocol's other side. Tests steer it by queueing jobs and by replacing the
// answer of a call; it refuses what does not fit the schemas, so that the connector's requests are checked by the way.

export type Answer = { status: number; body?: unknown; headers?: Record<string, string>; text?: string }
export type CallName = 'register' | 'claim' | 'renew' | 'report' | 'deregister'
export type Seen = { call: CallName; body: unknown; authorization: string | undefined; at: number }

export type FakeControlPlane = {
  url: string
  seen: Seen[]
  /** Bodies of one call, in order. */
  calls<T>(call: CallName, schema: { parse(value: unknown): T }): T[]
  reports(): Report[]
  /** What a resync reads, in pages of two; each reading is noted. */
  readonly grants: unknown[]
  resyncs(): number
  /** Handed out by the next claim that has a free slot. */
  enqueue(...jobs: unknown[]): void
  /** Takes the place of the ordinary answer until it returns undefined. */
  override(call: CallName, answer: (body: unknown, nth: number) => Answer | undefined): void
  clearOverrides(): void
  /** Resolves when the condition holds; checked after every call. Rejects after `ms`, 15 s. */
  until(condition: () => boolean, what: string, ms?: number): Promise<void>
  /** Stops listening, but keeps its port for `listen`. */
  pause(): Promise<void>
  resume(): Promise<void>
  close(): Promise<void>
}

export const problem = (status: number, code: string, headers: Record<string, string> = {}): Answer => ({
  status,
  headers,
  body: { type: 'about:blank', title: code, status, code },
})

const KNOBS: Knobs = {
  claimWaitMs: 300,
  leaseTtlMs: 60_000,
  renewEveryMs: 200,
  jobMaxMs: 300_000,
  resyncEveryMs: 600_000,
  reportBatch: 100,
}

const SCHEMAS = {
  register: RegisterRequest,
  claim: ClaimRequest,
  renew: RenewRequest,
  report: ReportRequest,
  deregister: DeregisterRequest,
} as const

const readAll = async (request: IncomingMessage): Promise<string> => {
  let text = ''
  for await (const chunk of request) text += String(chunk)
  return text
}

const send = (response: ServerResponse, answer: Answer): void => {
  response.writeHead(answer.status, { 'content-type': 'application/json', ...answer.headers })
  response.end(answer.text ?? (answer.body === undefined ? '' : JSON.stringify(answer.body)))
}

const isCall = (name: string): name is CallName => name in SCHEMAS

export const startFakeControlPlane = async (knobs: Partial<Knobs> = {}): Promise<FakeControlPlane> => {
  const seen: Seen[] = []
  const queue: unknown[] = []
  const grants: unknown[] = []
  let resyncs = 0
  const overrides = new Map<CallName, (body: unknown, nth: number) => Answer | undefined>()
  const watchers = new Set<() => void>()
  const wake = (): void => {
    for (const watcher of watchers) watcher()
  }
  const serverTime = (): string => new Date().toISOString()

  const longPoll = (waitMs: number, response: ServerResponse): Promise<void> =>
    new Promise((resolve) => {
      response.once('close', () => done())
      const done = (): void => {
        clearTimeout(timer)
        watchers.delete(look)
        resolve()
      }
      const look = (): void => {
        if (queue.length > 0) done()
      }
      const timer = setTimeout(done, waitMs)
      watchers.add(look)
    })

  const claim = async (body: ClaimRequest, response: ServerResponse): Promise<Answer> => {
    if (queue.length === 0) await longPoll(body.waitMs, response)
    // Nobody is there any more to be given anything.
    if (response.destroyed) return { status: 204 }
    const jobs = queue.splice(0, body.freeSlots)
    return jobs.length === 0 ? { status: 204 } : { status: 200, body: { serverTime: serverTime(), jobs } }
  }

  const ordinary = async (call: CallName, body: unknown, response: ServerResponse): Promise<Answer> => {
    switch (call) {
      case 'register':
        return {
          status: 200,
          body: { serverTime: serverTime(), protocol: 1, controlPlaneId: 'cp_test', knobs: { ...KNOBS, ...knobs } },
        }
      case 'claim':
        return await claim(ClaimRequest.parse(body), response)
      case 'renew': {
        const results = RenewRequest.parse(body).inFlight.map((ref) => ({ ...ref, status: 'ok' }))
        return { status: 200, body: { serverTime: serverTime(), results } }
      }
      case 'report': {
        const results = ReportRequest.parse(body).reports.map((report) =>
          'jobId' in report
            ? { jobId: report.jobId, epoch: report.epoch, status: 'accepted' }
            : { grantId: report.grantId, generation: report.generation, status: 'accepted' },
        )
        return { status: 200, body: { results } }
      }
      case 'deregister':
        return { status: 204 }
    }
  }

  const page = (url: URL): Answer => {
    const from = Number(url.searchParams.get('after') ?? 0)
    const next = from + 2 < grants.length ? String(from + 2) : null
    if (next === null) resyncs++
    return { status: 200, body: { serverTime: serverTime(), grants: grants.slice(from, from + 2), next } }
  }

  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const url = new URL(request.url ?? '/', 'http://x')
    if (url.pathname === '/connector/v1/grants' && request.method === 'GET') return send(response, page(url))
    const name = /^\/connector\/v1\/(\w+)$/.exec(request.url ?? '')?.[1] ?? ''
    if (!isCall(name) || request.method !== 'POST') return send(response, problem(404, 'not_found'))
    const body = JSON.parse(await readAll(request)) as unknown
    SCHEMAS[name].parse(body)
    seen.push({ call: name, body, authorization: request.headers.authorization, at: performance.now() })
    const nth = seen.filter(({ call }) => call === name).length
    wake()
    const answer = overrides.get(name)?.(body, nth) ?? (await ordinary(name, body, response))
    send(response, answer)
    wake()
  }

  const server = createServer((request, response) => {
    handle(request, response).catch((error: unknown) => send(response, { status: 500, text: String(error) }))
  })
  const listen = (port: number): Promise<void> =>
    new Promise((resolve, reject) => server.once('error', reject).listen(port, '127.0.0.1', () => resolve()))
  const stop = (): Promise<void> =>
    new Promise((resolve) => {
      server.close(() => resolve())
      server.closeAllConnections()
    })
  await listen(0)
  const { port } = server.address() as AddressInfo

  return {
    url: `http://127.0.0.1:${port}`,
    seen,
    grants,
    resyncs: () => resyncs,
    calls: (call, schema) => seen.filter((one) => one.call === call).map(({ body }) => schema.parse(body)),
    reports: () =>
      seen.filter(({ call }) => call === 'report').flatMap(({ body }) => ReportRequest.parse(body).reports),
    enqueue: (...jobs) => {
      queue.push(...jobs)
      wake()
    },
    override: (call, answer) => void overrides.set(call, answer),
    clearOverrides: () => overrides.clear(),
    until: (condition, what, ms = 15_000) =>
      new Promise((resolve, reject) => {
        const timer = setTimeout(() => {
          watchers.delete(check)
          reject(new Error(`did not happen: ${what}`))
        }, ms)
        const check = (): void => {
          if (!condition()) return
          clearTimeout(timer)
          watchers.delete(check)
          resolve()
        }
        watchers.add(check)
        check()
      }),
    pause: stop,
    resume: () => listen(port),
    close: stop,
  }
}
