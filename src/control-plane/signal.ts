/**
 * Says that something changed, to whoever waits. A waiter names the state it has seen, so that a change between its
 * look and its wait is never missed.
 */
export class ChangeSignal {
  #version = 0
  readonly #waiters = new Set<() => void>()

  get version(): number {
    return this.#version
  }

  notify(): void {
    this.#version += 1
    for (const wake of [...this.#waiters]) wake()
  }

  /** Resolves when there was a change after `seen`, or when `stop` is aborted. */
  changedSince(seen: number, stop: AbortSignal): Promise<void> {
    if (this.#version !== seen || stop.aborted) return Promise.resolve()
    return new Promise((resolve) => {
      const wake = () => {
        this.#waiters.delete(wake)
        stop.removeEventListener('abort', wake)
        resolve()
      }
      this.#waiters.add(wake)
      stop.addEventListener('abort', wake)
    })
  }
}
