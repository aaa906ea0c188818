import { settle } from './access/settle.ts'
import type { Service } from './service.ts'

/** Node's timers can't wait longer than 2^31 ms; and a stepped clock should be noticed within a day. */
const LONGEST_SLEEP_MS = 24 * 60 * 60 * 1000
const PAUSE_AFTER_ERROR_MS = 1000

const settleAndFindNext = async ({ store, deps }: Service): Promise<number> => {
  await store.write((tx) => settle(tx, deps))
  const now = deps.clock.now()
  const due = await store.read((tx) => tx.nextDue(now))
  return due === null ? LONGEST_SLEEP_MS : Math.min(Math.max(due - now, 0), LONGEST_SLEEP_MS)
}

/** Sleeps for `ms`, or until the schedule changes. */
const sleepOrChange = async (service: Service, ms: number, seen: number): Promise<void> => {
  const woken = new AbortController()
  const either = AbortSignal.any([woken.signal, service.stopping])
  const slept = service.deps.clock.sleep(ms, either).catch(() => undefined)
  await Promise.race([slept, service.schedule.changedSince(seen, either)])
  woken.abort()
  await slept
}

/**
 * Ends grants, frees leases and starts inspections when their time has come. It sleeps until the next thing is due
 * and never looks in between. A failing database is no reason to stop: nothing else would end the grants.
 */
export const runTimer = async (service: Service): Promise<void> => {
  while (!service.stopping.aborted) {
    const seen = service.schedule.version
    let wait = PAUSE_AFTER_ERROR_MS
    try {
      wait = await settleAndFindNext(service)
      service.work.notify()
    } catch (error) {
      service.deps.log.error({ event: 'timer_failed', err: error }, 'timer failed')
    }
    await sleepOrChange(service, wait, seen)
  }
}
