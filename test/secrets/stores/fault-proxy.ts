import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import https from 'node:https'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Certificate } from './certificates.ts'

// The way to a secret store that speaks HTTP, as bad as a test wants it. What meets no fault is passed on unchanged,
// the Host header too: a signature over it stays good.

export type HttpFault = {
  /** Only for requests of which this is true; default: any. */
  when?: (request: SeenRequest) => boolean
  /** Before anything else happens. */
  delayMs?: number
  /** Takes the request and never answers. */
  hang?: true
  /** Cuts the connection before the answer. */
  reset?: true
  /** Answers this itself; the store never sees the request. */
  status?: number
  headers?: Record<string, string>
  body?: string
  /** Of the body, the store's own or this one: so many bytes pass, then nothing more comes, or the connection is cut. */
  cut?: { after: number; how: 'hang' | 'reset' }
}

export type SeenRequest = { method: string; path: string; headers: http.IncomingHttpHeaders; body: string }

export type HttpFaultProxy = {
  url: string
  port: number
  /** What the next requests meet, one each, the first one first; those after them meet `always` or nothing. */
  plan(...faults: readonly HttpFault[]): void
  /** What all others meet from here on; null: nothing. */
  always(fault: HttpFault | null): void
  /** All that came, whatever became of it. */
  requests(): readonly SeenRequest[]
  close(): Promise<void>
}

export type FaultProxyOptions = {
  /** With it the proxy speaks TLS to its clients. */
  certificate?: Certificate
  /** Whom the store's certificate must be signed by, where it speaks TLS. */
  ca?: string
}

type Work = { target: URL; ca: string | undefined; planned: HttpFault[]; always: HttpFault | null; seen: SeenRequest[] }

export const startHttpFaultProxy = async (target: string, options: FaultProxyOptions = {}): Promise<HttpFaultProxy> => {
  const work: Work = { target: new URL(target), ca: options.ca, planned: [], always: null, seen: [] }
  const listener = (request: IncomingMessage, response: ServerResponse): void => {
    // A client that gives up, and a store that does, end their connection: that is the whole answer.
    serve(work, request, response).catch(() => response.destroy())
  }
  const { certificate } = options
  const server = certificate ? https.createServer({ ...certificate }, listener) : http.createServer(listener)
  // Who does not trust the certificate says so by ending the handshake.
  server.on('tlsClientError', () => undefined)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    url: `${certificate ? 'https' : 'http'}://127.0.0.1:${port}`,
    port,
    plan: (...faults) => void work.planned.push(...faults),
    always: (fault) => {
      work.always = fault
    },
    requests: () => work.seen,
    close: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      server.closeAllConnections()
      await closed
    },
  }
}

const serve = async (work: Work, request: IncomingMessage, response: ServerResponse): Promise<void> => {
  const body = await bodyOf(request)
  const { method = 'GET', url: path = '/', headers } = request
  const seen = { method, path, headers, body: body.toString() }
  work.seen.push(seen)
  const fault = faultFor(work, seen)
  if (fault.delayMs) await sleep(fault.delayMs, undefined, { ref: false })
  if (fault.hang) return
  if (fault.reset) request.socket.resetAndDestroy()
  else if (fault.status === undefined) await pass(work, seen, body, response, fault)
  else answer(response, { ...fault, status: fault.status }, Buffer.from(fault.body ?? ''))
}

const faultFor = (work: Work, seen: SeenRequest): HttpFault => {
  const at = work.planned.findIndex((fault) => fault.when?.(seen) ?? true)
  if (at >= 0) return work.planned.splice(at, 1)[0] ?? {}
  const { always } = work
  return always !== null && (always.when?.(seen) ?? true) ? always : {}
}

const pass = (work: Work, seen: SeenRequest, body: Buffer, response: ServerResponse, fault: HttpFault) =>
  new Promise<void>((resolve, reject) => {
    const { method, headers } = seen
    const { hostname: host, port, protocol } = work.target
    const trust = work.ca === undefined ? {} : { ca: work.ca }
    const client = protocol === 'https:' ? https : http
    const onward = client.request({ host, port, path: seen.path, method, headers, agent: false, ...trust }, (store) => {
      bodyOf(store).then((content) => {
        answer(response, { ...fault, status: store.statusCode ?? 502, headers: passedOn(store.headers) }, content)
        resolve()
      }, reject)
    })
    onward.on('error', reject)
    onward.end(body)
  })

/** We have all of the body, so its length is known, and the connection to the client is our own affair. */
const passedOn = (headers: http.IncomingHttpHeaders): Record<string, string> => {
  const { connection: _, 'transfer-encoding': __, 'keep-alive': ___, ...rest } = headers
  return Object.fromEntries(Object.entries(rest).map(([name, value]) => [name, String(value)]))
}

const answer = (response: ServerResponse, fault: HttpFault & { status: number }, body: Buffer): void => {
  response.writeHead(fault.status, { ...fault.headers, 'content-length': body.length })
  if (fault.cut === undefined) {
    response.end(body)
    return
  }
  const { after, how } = fault.cut
  response.write(body.subarray(0, after), () => {
    if (how === 'reset') response.socket?.resetAndDestroy()
  })
}

const bodyOf = async (message: IncomingMessage): Promise<Buffer> => {
  const chunks: Buffer[] = []
  for await (const chunk of message) chunks.push(chunk)
  return Buffer.concat(chunks)
}
