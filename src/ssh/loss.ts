import type { JobError } from '../host/errors.ts'

/**
 * That a connection ended, for whoever still waits for something on it. Not a promise: each of thousands of commands on
 * one connection would leave its reaction at it (`Promise.race` never takes one back).
 */
export interface Loss {
  /** Calls `listener` when the connection ends, or at once where it has; returns what takes it back. */
  onLost(listener: (error: JobError) => void): () => void
  lose(error: JobError): void
  isLost(): boolean
}

export const createLoss = (): Loss => {
  const listeners = new Set<(error: JobError) => void>()
  let lost: JobError | null = null
  return {
    onLost: (listener) => {
      if (lost !== null) listener(lost)
      else listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    lose: (error) => {
      if (lost !== null) return
      lost = error
      for (const listener of listeners) listener(error)
      listeners.clear()
    },
    isLost: () => lost !== null,
  }
}

/** `work`, or the end of the connection, whichever comes first. */
export const orLost = async <T>(loss: Loss, work: Promise<T>): Promise<T> => {
  const { promise, reject } = Promise.withResolvers<never>()
  const forget = loss.onLost(reject)
  try {
    return await Promise.race([work, promise])
  } finally {
    forget()
  }
}
