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

/** The metadata services of the clouds, and what gives out credentials in containers. */
const METADATA_HOSTS = ['169.254.169.254', '169.254.170.2', '169.254.170.23', 'metadata.google.internal', 'metadata']
/** What is plain HTTP there is so because it stays on this machine. */
const OWN_HOSTS = ['localhost', '127.0.0.1', '::1', '[::1]']
const IDENTITY_VARIABLES = ['IDENTITY_ENDPOINT', 'GCE_METADATA_HOST', 'AWS_CONTAINER_CREDENTIALS_FULL_URI']

const hostOf = (text: string | null): string[] =>
  text === null ? [] : [URL.parse(text)?.hostname || (text.split(':', 1)[0] ?? '')]

/** What is never asked through a proxy, whatever `NO_PROXY` says: who gives out identities, and this machine. */
const neverProxied = (environment: Environment): string[] => [
  ...OWN_HOSTS,
  ...METADATA_HOSTS,
  ...IDENTITY_VARIABLES.flatMap((name) => hostOf(variable(environment, name))),
]

export const proxyOf = (environment: Environment) => {
  const none = variable(environment, 'NO_PROXY')?.split(/[\s,]+/) ?? []
  return {
    http: variable(environment, 'HTTP_PROXY'),
    https: variable(environment, 'HTTPS_PROXY'),
    none: [...new Set([...none, ...neverProxied(environment)])].join(','),
  }
}

/** Libraries of vendors read it from the process alone; so that they keep to it as well. */
export const keepIdentitiesOffProxies = (environment: Environment): void => {
  const { http: httpProxy, https: httpsProxy, none } = proxyOf(environment)
  if (httpProxy === null && httpsProxy === null) return
  for (const name of ['NO_PROXY', 'no_proxy', 'no_grpc_proxy']) process.env[name] = none
}

/** Agents of Node.js that use the proxy, for SDKs that take agents. */
export const nodeAgents = (environment: Environment) => {
  const proxy = proxyOf(environment)
  const proxyEnv = {
    ...(proxy.http === null ? {} : { HTTP_PROXY: proxy.http }),
    ...(proxy.https === null ? {} : { HTTPS_PROXY: proxy.https }),
    NO_PROXY: proxy.none,
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
   * Answers with a status that says something of the secret; what can pass (5xx, 429) is tried three times, and then, or when there is no
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
  /** Certificate authorities that are trusted instead of the usual ones: a PEM file. */
  readonly caFile?: string | undefined
}

const dispatcherOf = ({ environment, caFile }: StoreHttpOptions): Dispatcher => {
  const ca = caFile === undefined ? {} : { ca: readFileSync(caFile, 'utf8') }
  const { http: httpProxy, https: httpsProxy, none } = proxyOf(environment)
  return new EnvHttpProxyAgent({
    httpProxy: httpProxy ?? '',
    httpsProxy: httpsProxy ?? '',
    noProxy: none,
    connect: { timeout: ATTEMPT_MS, ...ca },
    requestTls: { timeout: ATTEMPT_MS, ...ca },
  })
}

/** 412, 472, 473: a Vault that stands by, or for disaster recovery. */
const PASSING: ReadonlySet<number> = new Set([412, 429, 472, 473])
const isPassing = (status: number): boolean => status >= 500 || PASSING.has(status)

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

  /** Those of a cluster are changed now and then: the next attempt reads the file again. Who is under way goes on. */
  const forgetAuthorities = (): void => {
    if (options.caFile === undefined) return
    dispatcher?.close().catch(() => undefined)
    dispatcher = null
  }

  const attempt = async (what: StoreRequest): Promise<Answer> => {
    try {
      const answer = await sendOnce(what)
      if (!isPassing(answer.status)) return answer
      throw unreachable(`${name} answered ${answer.status}`)
    } catch (error) {
      if (error instanceof JobError) throw error
      forgetAuthorities()
      throw unreachable(`${name} did not answer (${wordOf(error)})`)
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
