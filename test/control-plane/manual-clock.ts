import type { Clock } from '../../src/observability/clock.ts'

interface Sleeper {
  readonly wakeAt: number
  readonly wake: () => void
}

/** Time that moves only when a test says so. */
export class ManualClock implements Clock {
  #now: number
  readonly #sleepers = new Set<Sleeper>()
  readonly #watchers = new Set<() => void>()

  constructor(start = Date.parse('2026-11-22T15:00:00.000Z')) {
    this.#now = start
  }

  now(): number {
    return this.#now
  }

  monotonic(): number {
    return this.#now
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(signal.reason)
        return
      }
      if (ms <= 0) {
        resolve()
        return
      }
      const sleeper: Sleeper = { wakeAt: this.#now + ms, wake: resolve }
      this.#sleepers.add(sleeper)
      signal?.addEventListener('abort', () => {
        this.#sleepers.delete(sleeper)
        reject(signal.reason)
      })
      for (const look of [...this.#watchers]) look()
    })
  }

  advance(ms: number): void {
    this.#now += ms
    for (const sleeper of [...this.#sleepers]) {
      if (sleeper.wakeAt > this.#now) continue
      this.#sleepers.delete(sleeper)
      sleeper.wake()
    }
  }

  sleeping(ms: number): boolean {
    return [...this.#sleepers].some((sleeper) => sleeper.wakeAt === this.#now + ms)
  }

  /** Resolves when somebody sleeps until exactly `ms` from now: the sign that a long poll or a timer has settled down. */
  sleeperFor(ms: number): Promise<void> {
    const wakeAt = this.#now + ms
    return new Promise((resolve) => {
      const look = () => {
        if (![...this.#sleepers].some((sleeper) => sleeper.wakeAt === wakeAt)) return
        this.#watchers.delete(look)
        resolve()
      }
      this.#watchers.add(look)
      look()
    })
  }
}
