import type { Random } from '../../observability/random.ts'

const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE

/** Nothing that waits by itself waits longer. */
export const LONGEST_WAIT_MS = HOUR

const doubling = (first: number, cap: number, failures: number): number =>
  Math.min(cap, first * 2 ** Math.min(Math.max(failures - 1, 0), 20))

/** A grant has a short life, and the person is waiting. */
export const presentBackOff = (failures: number): number => doubling(5 * SECOND, 5 * MINUTE, failures)
export const MAX_PRESENT_FAILURES = 10

/** An end is tried for ever: it must happen as soon as the server can be reached again. */
export const absentBackOff = (failures: number): number => doubling(15 * SECOND, HOUR, failures)

/** After these, the hourly round looks again. */
export const inspectBackOff = (failures: number): number => doubling(15 * SECOND, 5 * MINUTE, failures)
export const MAX_INSPECT_FAILURES = 5

export const INSPECT_EVERY_MS = HOUR

/**
 * Each server has its own minute and second of the hour, by chance: thousands that came together are looked at one after
 * the other. It keeps it; after an outage of the control plane it gets another, or all that were missed would be due at once.
 */
export const someTimeInTheHour = (random: Random, now: number): number =>
  now + 1 + Math.floor((random(4).readUInt32BE() / 2 ** 32) * INSPECT_EVERY_MS)

export const nextInspection = (random: Random, due: number, now: number): number => {
  const next = due + INSPECT_EVERY_MS
  return next > now ? next : someTimeInTheHour(random, now)
}

/** How long an inspection that is over can still be asked for. Ends are kept for good: they are the proof. */
export const KEEP_INSPECTIONS_MS = 7 * 24 * HOUR

/** A job whose hand-out did not reach the connector. */
export const REDELIVER_AFTER_MS = 15 * SECOND

/** A connector that called a job off must not get it back in a tight loop. */
export const CANCELLED_PAUSE_MS = 5 * SECOND
