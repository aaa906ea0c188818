import type { Clock } from '../observability/clock.ts'
import { createWakeup } from './wakeup.ts'

/** How many jobs run at once. */
export interface Slots {
  free(): number
  /** Holds a slot until the work settles, however it does. */
  run(work: () => Promise<void>): Promise<void>
  /** Resolves when a slot may be free, after `ms`, or when the signal is aborted. */
  whenFree(ms: number, signal: AbortSignal): Promise<void>
  /** Resolves when nothing runs any more, or the signal is aborted. */
  whenIdle(signal: AbortSignal): Promise<void>
}

export const createSlots = (total: number, clock: Clock): Slots => {
  const running = new Set<Promise<void>>()
  const freed = createWakeup(clock)
  return {
    free: () => total - running.size,
    run: async (work) => {
      const done = work().finally(() => {
        running.delete(done)
        freed.wake()
      })
      running.add(done)
      await done
    },
    whenFree: (ms, signal) => freed.wait(ms, signal),
    whenIdle: async (signal) => {
      const aborted = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
      await Promise.race([Promise.allSettled(running), aborted])
    },
  }
}
