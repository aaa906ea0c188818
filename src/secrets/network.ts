import { readFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import { type Dispatcher, EnvHttpProxyAgent, request } from 'undici'
import { JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import { ATTEMPT_MS, retrying, unreachable, wordOf } from './store-errors.ts'

/**
 * The way to a store, for those without an SDK, and what SDKs are given so that they take the same one: through the
 * proxy that `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` name (in either case), trusting what Node.js trusts
 * (`NODE_EXTRA_CA_CERTS`).
 */

export type Environment = Readonly<Record<string, string | undefined>>

/** Null where no variable is set. */
const variable = (environment: Environment, name: string): string | null =>
  environment[name.toLowerCase()]?.trim() || environment[name]?.trim() || null

export const proxyOf = (environment: Environment) => ({
  http: variable(environment, 'HTTP_PROXY'),
  https: variable(environment, 'HTTPS_PROXY'),
  none: variable(environment, 'NO_PROXY'),
})

const METADATA_HOSTS = ['169.254.169.254', 'metadata.google.internal', 'metadata']

/**
 * Libraries of vendors ask even the metadata service, which gives out their tokens, through the proxy unless `NO_PROXY`
 * names it, and read that from the process alone.
 */
export const keepMetadataOffProxies = (environment: Environment): void => {
  const { http: httpProxy, https: httpsProxy, none } = proxyOf(environment)
  if (httpProxy === null && httpsProxy === null) return
  const hosts = [...new Set([...(none ?? '').split(',').filter(Boolean), ...METADATA_HOSTS])].join(',')
  for (const name of ['NO_PROXY', 'no_proxy', 'no_grpc_proxy']) process.env[name] = hosts
}

/** Agents of Node.js that use the proxy, for SDKs that take agents. */
export const nodeAgents = (environment: Environment) => {
  const proxy = proxyOf(environment)
  const proxyEnv = {
    ...(proxy.http === null ? {} : { HTTP_PROXY: proxy.http }),
    ...(proxy.https === null ? {} : { HTTPS_PROXY: proxy.https }),
    ...(proxy.none === null ? {} : { NO_PROXY: proxy.none }),
  }
  const options = { keepAlive: true, maxSockets: 16, proxyEnv }
  return { httpAgent: new http.Agent(options), httpsAgent: new https.Agent(options) }
}

const MAX_BODY_BYTES = 1024 * 1024

const readBody = async (body: AsyncIterable<Buffer>): Promise<unknown> => {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of body) {
    size += chunk.length
    if (size > MAX_BODY_BYTES) throw new JobError('secret_malformed', 'the answer of the store is larger than 1 MiB')
    chunks.push(chunk)
  }
  const bytes = Buffer.concat(chunks)
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch {
    // An error page of a proxy is no JSON, and no business of ours.
    return null
  } finally {
    for (const chunk of [...chunks, bytes]) chunk.fill(0)
  }
}

export interface Answer {
  readonly status: number
  /** Null where it is not JSON. */
  readonly body: unknown
}

export interface StoreRequest {
  readonly method?: 'GET' | 'POST'
  readonly url: URL
  readonly headers?: Readonly<Record<string, string>>
  /** Sent as JSON. */
  readonly body?: unknown
  readonly signal: AbortSignal
}

export interface StoreHttp {
  /**
   * Answers with a status below 500 that is not 429; anything else is tried three times, and then, or when there is no
   * answer at all, is `secret_store_unreachable`. Redirects are not followed.
   */
  send(request: StoreRequest): Promise<Answer>
  close(): Promise<void>
}

export interface StoreHttpOptions {
  /** For messages: "Vault at https://…". */
  readonly name: string
  readonly environment: Environment
  readonly clock: Clock
  /** Certificate authorities that are trusted instead of the usual ones: a PEM file, read at every new connection pool. */
  readonly caFile?: string | undefined
}

const dispatcherOf = ({ environment, caFile }: StoreHttpOptions): Dispatcher => {
  const ca = caFile === undefined ? {} : { ca: readFileSync(caFile, 'utf8') }
  const { http: httpProxy, https: httpsProxy, none } = proxyOf(environment)
  return new EnvHttpProxyAgent({
    httpProxy: httpProxy ?? '',
    httpsProxy: httpsProxy ?? '',
    noProxy: none ?? '',
    connect: { timeout: ATTEMPT_MS, ...ca },
    requestTls: { timeout: ATTEMPT_MS, ...ca },
  })
}

const isPassing = (status: number): boolean => status >= 500 || status === 429

export const storeHttp = (options: StoreHttpOptions): StoreHttp => {
  const { name, clock } = options
  let dispatcher: Dispatcher | null = null

  const sendOnce = async ({ method = 'GET', url, headers, body, signal }: StoreRequest): Promise<Answer> => {
    dispatcher ??= dispatcherOf(options)
    const response = await request(url, {
      method,
      dispatcher,
      headers: { accept: 'application/json', ...(body ? { 'content-type': 'application/json' } : {}), ...headers },
      body: body === undefined ? null : JSON.stringify(body),
      headersTimeout: ATTEMPT_MS,
      bodyTimeout: ATTEMPT_MS,
      signal,
    })
    return { status: response.statusCode, body: await readBody(response.body) }
  }

  const attempt = async (what: StoreRequest): Promise<Answer> => {
    try {
      const answer = await sendOnce(what)
      if (!isPassing(answer.status)) return answer
      throw unreachable(`${name} answered ${answer.status}`)
    } catch (error) {
      throw error instanceof JobError ? error : unreachable(`${name} did not answer (${wordOf(error)})`)
    }
  }

  const isUnreachable = (error: unknown): boolean =>
    error instanceof JobError && error.code === 'secret_store_unreachable'

  return {
    send: (what) => retrying(() => attempt(what), { clock, signal: what.signal, isPassing: isUnreachable }),
    close: async () => {
      await dispatcher?.destroy()
    },
  }
}
