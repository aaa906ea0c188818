/** Lets so many in at once, and the others in the order in which they came. */
export interface Gate {
  /** Resolves when it is one's turn, with what lets the next one in. Rejects with the signal's reason. */
  enter(signal?: AbortSignal): Promise<() => void>
  inside(): number
  waiting(): number
  limit(): number
  /** At least 1. Who is inside stays; a higher limit lets in who waits. */
  setLimit(limit: number): void
}

interface Waiter {
  readonly admit: () => void
}

export const createGate = (firstLimit: number): Gate => {
  let limit = firstLimit
  let inside = 0
  const queue: Waiter[] = []

  const admitNext = (): void => {
    while (inside < limit) {
      const next = queue.shift()
      if (next === undefined) return
      inside++
      next.admit()
    }
  }
  const leaver = (): (() => void) => {
    let left = false
    return () => {
      if (left) return
      left = true
      inside--
      admitNext()
    }
  }
  const wait = (signal: AbortSignal | undefined): Promise<() => void> =>
    new Promise((resolve, reject) => {
      const giveUp = (): void => {
        queue.splice(queue.indexOf(waiter), 1)
        reject(signal?.reason)
      }
      const waiter: Waiter = {
        admit: () => {
          signal?.removeEventListener('abort', giveUp)
          resolve(leaver())
        },
      }
      signal?.addEventListener('abort', giveUp, { once: true })
      queue.push(waiter)
    })

  return {
    enter: async (signal) => {
      signal?.throwIfAborted()
      if (inside >= limit || queue.length > 0) return await wait(signal)
      inside++
      return leaver()
    },
    inside: () => inside,
    waiting: () => queue.length,
    limit: () => limit,
    setLimit: (wanted) => {
      limit = Math.max(1, wanted)
      admitNext()
    },
  }
}

/** Gates by name; one that nobody is at is forgotten. */
export interface Gates {
  enter(name: string, signal?: AbortSignal): Promise<() => void>
  size(): number
}

export const createGates = (limit: number): Gates => {
  const gates = new Map<string, Gate>()
  return {
    enter: async (name, signal) => {
      const gate = gates.get(name) ?? createGate(limit)
      gates.set(name, gate)
      const forget = (): void => {
        if (gate.inside() === 0 && gate.waiting() === 0 && gates.get(name) === gate) gates.delete(name)
      }
      try {
        const leave = await gate.enter(signal)
        return () => {
          leave()
          forget()
        }
      } catch (error) {
        forget()
        throw error
      }
    },
    size: () => gates.size,
  }
}
