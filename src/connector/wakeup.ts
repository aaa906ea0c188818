import type { Clock } from '../observability/clock.ts'

/** Lets one loop sleep until something happens or time is up, without ever missing what happened in between. */
export interface Wakeup {
  wake(): void
  /** Resolves after `ms`, at the next `wake`, or at once when the signal is aborted. Never rejects. */
  wait(ms: number, signal: AbortSignal): Promise<void>
}

export const createWakeup = (clock: Clock): Wakeup => {
  let pending = false
  let release: (() => void) | null = null
  return {
    wake: () => {
      pending = true
      release?.()
    },
    wait: async (ms, signal) => {
      const timer = new AbortController()
      release = () => timer.abort()
      try {
        if (!pending) await clock.sleep(ms, AbortSignal.any([timer.signal, signal])).catch(() => undefined)
      } finally {
        timer.abort()
        release = null
        pending = false
      }
    },
  }
}
