import { StoreFailure, type Tx } from '../store/store.ts'
import type { Deps } from './deps.ts'

/**
 * Remembers whose turn failed, so that something that is looked at again and again is logged once, and again only
 * after it went well in between.
 */
export class Defects {
  readonly #known = new Set<string>()

  /** True at the first time. */
  add(subject: string): boolean {
    if (this.#known.has(subject)) return false
    this.#known.add(subject)
    return true
  }

  clear(subject: string): void {
    this.#known.delete(subject)
  }
}

export type Attempt<T> = { readonly ok: true; readonly value: T } | { readonly ok: false }

/**
 * One of many: what it writes is kept or undone as a whole, and a defect in it is logged and stops nobody else. Only a
 * store that cannot go on ends them all.
 */
export const attempt = async <T>(
  tx: Tx,
  deps: Deps,
  subject: string,
  work: (tx: Tx) => Promise<T>,
): Promise<Attempt<T>> => {
  try {
    const value = await tx.savepoint(() => work(tx))
    deps.defects.clear(subject)
    return { ok: true, value }
  } catch (error) {
    if (error instanceof StoreFailure) throw error
    if (deps.defects.add(subject)) deps.log.error({ event: 'defect', subject, err: error }, 'one of many failed')
    return { ok: false }
  }
}
