import type { Deps } from './access/deps.ts'
import { ChangeSignal } from './signal.ts'
import type { Store, Tx } from './store/store.ts'

/** What every surface of the API works with. */
export interface Service {
  readonly deps: Deps
  readonly store: Store
  /** There may be work to claim. */
  readonly work: ChangeSignal
  /** Something may be due at another time than before. */
  readonly schedule: ChangeSignal
  /** Aborted when the process is to end: long polls answer at once. */
  readonly stopping: AbortSignal
  /** A write that may make work: it wakes those who wait for some. */
  change<T>(write: (tx: Tx) => Promise<T>): Promise<T>
}

export const createService = (deps: Deps, store: Store, stopping: AbortSignal): Service => {
  const work = new ChangeSignal()
  const schedule = new ChangeSignal()
  return {
    deps,
    store,
    work,
    schedule,
    stopping,
    change: async (write) => {
      const result = await store.write(write)
      schedule.notify()
      work.notify()
      return result
    },
  }
}
