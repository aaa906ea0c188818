/**
 * One SSH connection to one server, made out of ssh2 and a socket of our own.
 *
 * What lives here: connecting, host-key checks, running one command, and the translation of everything that can go
 * wrong into the error table. What may enter: an address that the guard has checked, a parsed key, deadlines. What
 * never does: knowledge of jobs and grants, a retry of a refused login (newer sshd bans the source address), or any
 * use of ssh2 outside this folder.
 */
import type { Clock } from '../observability/clock.ts'

/** Given, so that no error with a stack is made for it. */
const IN_TIME = 'in time'

/**
 * Settles with `work`, or calls `onTimeout` and rejects with what it returns after `ms`, or calls `onAbort` the same
 * way when `signal` is aborted. `work` itself is not stopped: whoever makes the error also destroys what it waits for.
 */
export const withDeadline = async <T>(
  work: Promise<T>,
  limits: {
    readonly clock: Clock
    readonly ms: number
    readonly signal?: AbortSignal | undefined
    readonly onTimeout: () => Error
    readonly onAbort: () => Error
  },
): Promise<T> => {
  const timer = new AbortController()
  const { promise, reject } = Promise.withResolvers<never>()
  const abort = (): void => reject(limits.onAbort())
  if (limits.signal?.aborted) abort()
  limits.signal?.addEventListener('abort', abort, { once: true })
  limits.clock.sleep(limits.ms, timer.signal).then(
    () => reject(limits.onTimeout()),
    () => undefined,
  )
  try {
    return await Promise.race([work, promise])
  } finally {
    timer.abort(IN_TIME)
    limits.signal?.removeEventListener('abort', abort)
  }
}

/**
 * Settles with `work`, or rejects with what `onAbort` returns when `signal` is aborted first. `work` goes on for whoever else
 * waits for it; should it fail then, this has heard of it.
 */
export const untilAborted = async <T>(
  work: Promise<T>,
  signal: AbortSignal | undefined,
  onAbort: () => Error,
): Promise<T> => {
  if (signal === undefined) return await work
  const { promise, reject } = Promise.withResolvers<never>()
  const abort = (): void => reject(onAbort())
  if (signal.aborted) abort()
  signal.addEventListener('abort', abort, { once: true })
  try {
    return await Promise.race([work, promise])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}
