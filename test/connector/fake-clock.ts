import type { Clock } from '../../src/observability/clock.ts'

/** Time that passes when a test says so. Sleepers wake in order. */
export type FakeClock = Clock & {
  advance(ms: number): Promise<void>
  sleepers(): number
}

export const fakeClock = (start = Date.parse('2026-11-22T15:00:00Z')): FakeClock => {
  let elapsed = 0
  const waiting = new Set<{ at: number; wake: () => void }>()
  // Several turns, so that whoever woke up has gone to sleep again before time goes on.
  const settle = async (): Promise<void> => {
    for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve))
  }
  return {
    now: () => start + elapsed,
    monotonic: () => elapsed,
    sleep: (ms, signal) =>
      new Promise((resolve, reject) => {
        if (signal?.aborted) return reject(signal.reason)
        const sleeper = { at: elapsed + ms, wake: resolve }
        waiting.add(sleeper)
        signal?.addEventListener('abort', () => {
          waiting.delete(sleeper)
          reject(signal.reason)
        })
      }),
    sleepers: () => waiting.size,
    advance: async (ms) => {
      const end = elapsed + ms
      await settle()
      for (;;) {
        const next = [...waiting].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0]
        if (next === undefined) break
        elapsed = Math.max(elapsed, next.at)
        waiting.delete(next)
        next.wake()
        await settle()
      }
      elapsed = end
    },
  }
}
