export const BASE_MS = 500
export const CAP_MS = 30_000
/**
 * What a server may ask for with Retry-After: enough for a restart of the control plane, and what a revocation can be
 * held up by one wrong header. Who wants the connector to wait on says so again.
 */
const MAX_RETRY_AFTER_MS = 90_000

export interface Hint {
  /** What the server asked for. */
  readonly retryAfterMs?: number | null
  /** Waiting less cannot help (a refused token): go to the cap at once. */
  readonly atCap?: boolean
}

export interface Backoff {
  /** Milliseconds to wait before the next attempt. */
  next(hint?: Hint): number
  /** After a success. */
  reset(): void
}

/** Full jitter: every wait is uniform between nothing and a ceiling that doubles from 0.5 s to 30 s. */
export const createBackoff = (random: () => number): Backoff => {
  let failures = 0
  return {
    next: ({ retryAfterMs, atCap } = {}) => {
      const ceiling = atCap === true ? CAP_MS : Math.min(CAP_MS, BASE_MS * 2 ** failures)
      failures = Math.min(failures + 1, 16)
      const jittered = atCap === true ? ceiling * (0.75 + random() / 4) : random() * ceiling
      return Math.max(jittered, Math.min(retryAfterMs ?? 0, MAX_RETRY_AFTER_MS))
    },
    reset: () => {
      failures = 0
    },
  }
}
