/**
 * What tells an operator what the process does (log, metrics, health), and the clock that everything else is given.
 *
 * What lives here: thin wrappers with injected sinks. What never does: decisions, and secrets in any form.
 */
/** Time as a value that is passed in, so that tests never wait and production never reads a clock of its own. */
export interface Clock {
  /** Wall clock, milliseconds since 1970. Can step. */
  now(): number
  /** Milliseconds from an arbitrary start. Never steps; leases and waits are measured with it. */
  monotonic(): number
  /** Resolves after `ms`; rejects with the signal's reason when it is aborted first. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
}

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  // Not node:timers/promises: it makes an error with a stack for every sleep that is called off, and most deadlines are.
  sleep: (ms, signal) =>
    new Promise((resolve, reject) => {
      if (signal?.aborted === true) return reject(signal.reason)
      const wake = (): void => {
        signal?.removeEventListener('abort', giveUp)
        resolve()
      }
      const timer = setTimeout(wake, ms)
      const giveUp = (): void => {
        clearTimeout(timer)
        reject(signal?.reason)
      }
      signal?.addEventListener('abort', giveUp, { once: true })
    }),
}
