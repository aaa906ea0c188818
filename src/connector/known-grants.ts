import type { Clock } from '../observability/clock.ts'
import type { KnownGrant } from '../protocol/calls.ts'
import type { GrantChange, Journal } from './journal.ts'
import { createWakeup, type Wakeup } from './wakeup.ts'

/** The grants whose end this connector sees to, and when it will. */
export interface KnownGrants {
  /** What a job has done here, or a list of the control plane's: the newer generation wins. */
  learn(grants: readonly KnownGrant[], from: Source): void
  /** Whether that is still what is known of its grant. */
  has(known: KnownGrant): boolean
  /** Its end is confirmed. */
  forget(grantId: string): void
  /** Those that are due, each until it is forgotten, postponed, or learnt anew. */
  takeDue(now: number): KnownGrant[]
  /** Not before `until`, milliseconds since 1970. */
  postpone(grantId: string, until: number): void
  /** Milliseconds since 1970; Infinity where nothing is to come. */
  nextDue(): number
  size(): number
  /** Woken when that may have become sooner. */
  readonly news: Wakeup
}

/** `applied`: by a job of this instance; `listed`: by anybody. */
export type Source = 'applied' | 'listed'

/** Instances are peers: who gave access ends it, and the others only where that one has died. */
const OTHERS_WAIT_MS = 30_000
const OTHERS_SPREAD_MS = 30_000

interface Entry {
  readonly known: KnownGrant
  dueAt: number
  taken: boolean
}

export interface KnownGrantsOptions {
  readonly clock: Clock
  readonly journal: Journal
  /** From 0 to below 1. */
  readonly random: () => number
}

export const createKnownGrants = ({ clock, journal, random }: KnownGrantsOptions): KnownGrants => {
  const all = new Map<string, Entry>()
  const news = createWakeup(clock)

  const enter = (known: KnownGrant, from: Source): boolean => {
    const { id, generation, notAfter } = known.grant
    const former = all.get(id)
    if (former !== undefined && former.known.grant.generation > generation) return false
    const isSame = former?.known.grant.generation === generation && former.known.grant.notAfter === notAfter
    if (isSame) return false
    const wait = from === 'applied' ? 0 : OTHERS_WAIT_MS + random() * OTHERS_SPREAD_MS
    all.set(id, { known, dueAt: Date.parse(notAfter) + wait, taken: false })
    return true
  }

  // Of an earlier process: overdue ones are due at once.
  for (const known of journal.grants()) enter(known, 'applied')

  return {
    news,
    learn: (grants, from) => {
      const entered = grants.filter((known) => enter(known, from))
      journal.change(entered.map((known): GrantChange => ({ learn: known })))
      if (entered.length > 0) news.wake()
    },
    has: (known) => all.get(known.grant.id)?.known === known,
    forget: (grantId) => {
      if (all.delete(grantId)) journal.change([{ forget: grantId }])
    },
    takeDue: (now) => {
      const due = [...all.values()].filter(({ taken, dueAt }) => !taken && dueAt <= now)
      for (const entry of due) entry.taken = true
      return due.toSorted((a, b) => a.dueAt - b.dueAt).map(({ known }) => known)
    },
    postpone: (grantId, until) => {
      const entry = all.get(grantId)
      if (entry === undefined) return
      entry.dueAt = until
      entry.taken = false
      news.wake()
    },
    nextDue: () =>
      [...all.values()].reduce((least, { taken, dueAt }) => (taken ? least : Math.min(least, dueAt)), Infinity),
    size: () => all.size,
  }
}
