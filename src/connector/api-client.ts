import { request } from 'undici'
import type { z } from 'zod'
import {
  ClaimEnvelope,
  type ClaimRequest,
  type DeregisterRequest,
  GrantsResponse,
  ProblemDetails,
  type RegisterRequest,
  RegisterResponse,
  type RenewRequest,
  RenewResponse,
  type ReportRequest,
  ReportResponse,
} from '../protocol/calls.ts'
import type { Environment } from '../secrets/network.ts'
import type { TokenSource } from './token.ts'
import { type ClientCertificate, createWay } from './way.ts'

/** Why a call did not do what it was for. `unreachable` covers everything that can pass by itself. */
export type ApiErrorKind = 'unreachable' | 'rejected' | 'upgrade_required' | 'unknown_instance' | 'bad_request'

export class ApiError extends Error {
  readonly kind: ApiErrorKind
  readonly status: number | null
  /** The control plane's own code, where it gave one. */
  readonly code: string | null
  readonly retryAfterMs: number | null

  constructor(
    kind: ApiErrorKind,
    message: string,
    details: Partial<Pick<ApiError, 'status' | 'code' | 'retryAfterMs'>>,
  ) {
    super(message)
    this.name = 'ApiError'
    this.kind = kind
    this.status = details.status ?? null
    this.code = details.code ?? null
    this.retryAfterMs = details.retryAfterMs ?? null
  }
}

/** A claim, with its jobs still unread: each one is parsed by itself. */
export interface Claimed {
  readonly serverTime: string
  readonly jobs: readonly unknown[]
}

export interface ApiClient {
  register(body: RegisterRequest, signal: AbortSignal): Promise<RegisterResponse>
  /** Null when there was nothing to do. */
  claim(body: ClaimRequest, signal: AbortSignal): Promise<Claimed | null>
  renew(body: RenewRequest, signal: AbortSignal): Promise<RenewResponse>
  report(body: ReportRequest, signal: AbortSignal): Promise<ReportResponse>
  /** One page; `after` is the `next` of the page before, null for the first. */
  grants(after: string | null, signal: AbortSignal): Promise<GrantsResponse>
  deregister(body: DeregisterRequest, signal: AbortSignal): Promise<void>
  /** Drops all connections. */
  close(): Promise<void>
}

export interface ApiClientOptions {
  readonly url: string
  readonly token: TokenSource
  /** Where the proxy is named. */
  readonly environment: Environment
  readonly clientCertificate: ClientCertificate | null
  /** For everything but the wait of a long poll, which is added to it. Milliseconds, 10,000. */
  readonly timeoutMs?: number
}

const MAX_BODY_BYTES = 32 * 1024 * 1024

interface Reply {
  readonly status: number
  readonly text: string
  readonly retryAfterMs: number | null
}

/** Seconds or a date; what is neither is as if it were not there. */
const parseRetryAfter = (value: string | string[] | undefined): number | null => {
  const text = typeof value === 'string' ? value.trim() : ''
  if (/^\d{1,6}$/.test(text)) return Number(text) * 1000
  const at = Date.parse(text)
  return Number.isNaN(at) ? null : Math.max(0, at - Date.now())
}

const readBody = async (body: AsyncIterable<Buffer>): Promise<string> => {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of body) {
    size += chunk.length
    if (size > MAX_BODY_BYTES) throw new Error('the answer is too large')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

const KIND_BY_STATUS: Record<number, ApiErrorKind> = {
  400: 'bad_request',
  401: 'rejected',
  403: 'rejected',
  413: 'bad_request',
  422: 'bad_request',
  426: 'upgrade_required',
}

/** A status alone proves little: a proxy's error page has one too. Only with a problem body it is the control plane's word. */
const failureOf = (reply: Reply): ApiError => {
  const problem = ProblemDetails.safeParse(parseJson(reply.text))
  const details = { status: reply.status, retryAfterMs: reply.retryAfterMs }
  if (!problem.success) return new ApiError('unreachable', `HTTP ${reply.status} without a readable answer`, details)
  const { code } = problem.data
  const kind = code === 'unknown_instance' ? code : (KIND_BY_STATUS[reply.status] ?? 'unreachable')
  return new ApiError(kind, `HTTP ${reply.status} ${code.slice(0, 64)}`, { ...details, code })
}

const parseReply = <T>(reply: Reply, schema: z.ZodType<T>): T => {
  if (reply.status !== 200) throw failureOf(reply)
  const parsed = schema.safeParse(parseJson(reply.text))
  if (parsed.success) return parsed.data
  throw new ApiError('unreachable', 'the answer does not fit the protocol', { status: reply.status })
}

const networkError = (error: unknown): ApiError => {
  const cause = error instanceof AggregateError ? error.errors[0] : error
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : ''
  const name = cause instanceof Error ? cause.name : 'error'
  return new ApiError('unreachable', `no answer (${code || name})`, {})
}

const JobsUnread = ClaimEnvelope.shape.serverTime

/** The envelope alone: a job that cannot be read must not hide the others. */
const parseClaimed = (reply: Reply): Claimed => {
  if (reply.status !== 200) throw failureOf(reply)
  const body = parseJson(reply.text)
  const { serverTime, jobs } = (typeof body === 'object' && body !== null ? body : {}) as Record<string, unknown>
  const time = JobsUnread.safeParse(serverTime)
  if (time.success && Array.isArray(jobs)) return { serverTime: time.data, jobs }
  throw new ApiError('unreachable', 'the answer does not fit the protocol', { status: reply.status })
}

/**
 * The connector's side of the protocol: five calls, each with a deadline of its own. Redirects are never followed (a
 * redirect is an answer that does not parse), and a 401 makes the token file be read once more before it is an error.
 *
 * Every failure is an {@link ApiError}; a call that was aborted through its signal is one, too.
 */
export const createApiClient = (options: ApiClientOptions): ApiClient => {
  const timeoutMs = options.timeoutMs ?? 10_000
  const { environment, clientCertificate } = options
  const way = createWay({ environment, clientCertificate, connectMs: timeoutMs })

  /** `body`: undefined for a GET. */
  const send = async (path: string, body: unknown, signal: AbortSignal, waitMs: number): Promise<Reply> => {
    const token = await options.token.current()
    const limit = waitMs + timeoutMs
    const response = await request(`${options.url}/connector/v1/${path}`, {
      method: body === undefined ? 'GET' : 'POST',
      dispatcher: way.dispatcher(),
      headers: { authorization: `Bearer ${token.reveal()}`, 'content-type': 'application/json' },
      body: body === undefined ? null : JSON.stringify(body),
      headersTimeout: limit,
      bodyTimeout: timeoutMs,
      // Absolute, because a socket can stay established and silent for ever.
      signal: AbortSignal.any([signal, AbortSignal.timeout(limit)]),
    })
    const text = await readBody(response.body)
    return { status: response.statusCode, text, retryAfterMs: parseRetryAfter(response.headers['retry-after']) }
  }

  const post = async (path: string, body: unknown, signal: AbortSignal, waitMs = 0): Promise<Reply> => {
    try {
      const reply = await send(path, body, signal, waitMs)
      if (reply.status !== 401 || !(await options.token.refresh())) return reply
      return await send(path, body, signal, waitMs)
    } catch (error) {
      way.failed()
      throw networkError(error)
    }
  }

  return {
    register: async (body, signal) => parseReply(await post('register', body, signal), RegisterResponse),
    claim: async (body, signal) => {
      const reply = await post('claim', body, signal, body.waitMs)
      return reply.status === 204 ? null : parseClaimed(reply)
    },
    renew: async (body, signal) => parseReply(await post('renew', body, signal), RenewResponse),
    report: async (body, signal) => parseReply(await post('report', body, signal), ReportResponse),
    grants: async (after, signal) => {
      const query = after === null ? '' : `?${new URLSearchParams({ after })}`
      return parseReply(await post(`grants${query}`, undefined, signal), GrantsResponse)
    },
    deregister: async (body, signal) => {
      const reply = await post('deregister', body, signal)
      if (reply.status !== 204) throw failureOf(reply)
    },
    close: way.close,
  }
}
