/**
 * The image's HEALTHCHECK: asks the /healthz of what runs as process 1, whichever verb that is, and ends with 0 when
 * the answer is 200. An orchestrator with probes of its own asks /healthz itself.
 */
import { readFileSync } from 'node:fs'
import { get as getHttp } from 'node:http'
import { get as getHttps } from 'node:https'

type Environment = Readonly<Record<string, string | undefined>>

const TIMEOUT_MS = 5_000

/** Both verbs listen on one address or on all: either way one that can be asked from in here. */
const reachable = (listen: string): string => listen.replace(/^(?:0\.0\.0\.0|\[::\])?:(\d+)$/, '127.0.0.1:$1')

/** Null: it was said that there is no endpoint. */
export const healthUrl = (verb: string, environment: Environment): URL | null => {
  const get = (name: string): string | undefined => environment[name]?.trim() || undefined
  if (verb === 'connector') {
    const listen = get('APONO_HEALTH_LISTEN') ?? '0.0.0.0:8080'
    return listen === 'off' ? null : new URL(`http://${reachable(listen)}/healthz`)
  }
  const scheme = get('APONO_TLS_CERT_FILE') === undefined ? 'http' : 'https'
  return new URL(`${scheme}://${reachable(get('APONO_LISTEN') ?? '127.0.0.1:8443')}/healthz`)
}

/** An init (`docker run --init`) has the same last argument. */
const runningVerb = (): string => readFileSync('/proc/1/cmdline', 'utf8').split('\0').at(-2) ?? ''

const ask = (url: URL): Promise<number> =>
  new Promise((resolve, reject) => {
    // It is asked whether it answers, not who it is: nothing is sent, and its certificate is for another name.
    const options = { timeout: TIMEOUT_MS, rejectUnauthorized: false }
    const request = (url.protocol === 'https:' ? getHttps : getHttp)(url, options, (response) => {
      response.resume()
      resolve(response.statusCode ?? 0)
    })
    request.on('timeout', () => request.destroy(new Error(`no answer within ${TIMEOUT_MS} ms`)))
    request.on('error', reject)
  })

const check = async (url: URL): Promise<void> => {
  const outcome = await ask(url).catch((error: unknown) => (error instanceof Error ? error.message : String(error)))
  process.stdout.write(`${url}: ${outcome}\n`)
  process.exit(outcome === 200 ? 0 : 1)
}

if (import.meta.main) {
  const url = healthUrl(runningVerb(), process.env)
  if (url !== null) await check(url)
}
