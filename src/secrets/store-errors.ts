import { JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'

/**
 * What every store says when it cannot give a secret, so that the same trouble has the same words whatever the store.
 * `how` is what to paste; like the message it is made of the reference and of words that stand here, never of an answer's
 * text.
 */

const JSON_TO_STORE = '\'{"base64_private_key":"\'"$(base64 -w0 key.pem)"\'"}\''

export const notFound = (what: string, how: string): JobError =>
  new JobError('secret_not_found', `${what} is not there`, { detail: how })

export const accessDenied = (message: string, how: string): JobError =>
  new JobError('secret_access_denied', message, { detail: how })

export const unreachable = (message: string, how?: string): JobError =>
  new JobError('secret_store_unreachable', message, how === undefined ? {} : { detail: how })

/** Whether trying again a moment later is worth it. */
export interface Retrying {
  readonly clock: Clock
  readonly signal: AbortSignal
  readonly isPassing: (error: unknown) => boolean
}

/** For one attempt: within the deadline there has to be room for another. */
export const ATTEMPT_MS = 2000
const PAUSES_MS = [100, 400]

/** Three times at most, with short pauses: the deadline around a read is short as well. */
export const retrying = async <T>(attempt: () => Promise<T>, { clock, signal, isPassing }: Retrying): Promise<T> => {
  for (const pause of PAUSES_MS) {
    try {
      return await attempt()
    } catch (error) {
      if (signal.aborted || !isPassing(error)) throw error
    }
    await clock.sleep(pause, signal)
  }
  return await attempt()
}

/** The content of a secret, as an argument of a shell's command line. */
export const contentToStore = (): string => JSON_TO_STORE

/** What a network says, wherever it stands in somebody else's sentence. */
const KNOWN =
  /self[- ]signed certificate|certificate has expired|unable to (?:verify the first|get (?:local )?issuer) certificate|challenge resource|\b(?:ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|UNAVAILABLE|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED)\b/g

const wordsOf = (error: unknown, depth = 0): string[] => {
  if (typeof error !== 'object' || error === null || depth > 3) return []
  const { code, name, message, cause, errors } = error as Partial<Record<string, unknown>>
  const own = [code, name].find((one) => typeof one === 'string' && one !== 'Error')
  const known = typeof message === 'string' ? (message.match(KNOWN) ?? []) : []
  const inner = Array.isArray(errors) ? errors[0] : cause
  const word = typeof own === 'string' ? own.replaceAll(/[^A-Za-z0-9_.-]/g, '').slice(0, 64) : ''
  return [...(word === '' ? [] : [word]), ...known, ...wordsOf(inner, depth + 1)]
}

/**
 * What an error of somebody else's making is known by. The error itself never goes on as a cause: an SDK's holds the
 * request with its token, and the answer with the secret.
 */
export const wordOf = (error: unknown): string =>
  [...new Set(wordsOf(error))].slice(0, 3).join(', ') || 'no reason given'
