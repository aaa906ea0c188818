/**
 * What tells an operator what the process does (log, metrics, health), and the clock that everything else is given.
 *
 * What lives here: thin wrappers with injected sinks. What never does: decisions, and secrets in any form.
 */
import { setTimeout as delay } from 'node:timers/promises'

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
  sleep: async (ms, signal) => {
    await delay(ms, undefined, signal ? { signal } : {})
  },
}
