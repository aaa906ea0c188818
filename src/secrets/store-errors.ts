import { JobError } from '../host/errors.ts'

/**
 * What every store says when it cannot give a secret, so that the same trouble has the same words whatever the store.
 * `how` is what to paste; like the message it is made of the reference and of words that stand here, never of an answer's
 * text.
 */

const JSON_TO_STORE = '\'{"base64_private_key":"\'"$(base64 -w0 key.pem)"\'"}\''

export const notFound = (what: string, how: string): JobError =>
  new JobError('secret_not_found', `${what} is not there`, { detail: how })

export const accessDenied = (message: string, how: string, cause?: unknown): JobError =>
  new JobError('secret_access_denied', message, { detail: how }, { cause })

export const unreachable = (message: string, how?: string, cause?: unknown): JobError =>
  new JobError('secret_store_unreachable', message, how === undefined ? {} : { detail: how }, { cause })

/** The content of a secret, as an argument of a shell's command line. */
export const contentToStore = (): string => JSON_TO_STORE

/** What an error of somebody else's making is known by: a code, else its name. Bounded, and nothing but a word. */
export const wordOf = (error: unknown): string => {
  const { code, name } = (typeof error === 'object' && error !== null ? error : {}) as {
    code?: unknown
    name?: unknown
  }
  const word = [code, name].find((one) => typeof one === 'string' || typeof one === 'number') ?? typeof error
  return (
    String(word)
      .replaceAll(/[^A-Za-z0-9_.-]/g, '')
      .slice(0, 64) || 'error'
  )
}
