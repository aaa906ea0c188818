import type { Clock } from '../observability/clock.ts'
import type { Logger } from '../observability/log.ts'
import type { JobRef } from '../protocol/job.ts'
import type { ApiClient } from './api-client.ts'
import type { Leases } from './leases.ts'
import type { Registration } from './register.ts'
import type { Outbox } from './report.ts'
import type { Slots } from './slots.ts'

/** Milliseconds. Together under the 25 s that SIGTERM leaves; orchestrators are told 35 s. */
const FINISH_MS = 19_000
const FLUSH_MS = 4_000
const DEREGISTER_MS = 1_500

export interface ShutdownDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly api: ApiClient
  readonly leases: Leases
  readonly slots: Slots
  readonly outbox: Outbox
  readonly registration: Registration
  readonly instanceId: string
  /** Filled with the jobs that are given back, before they are called off, so that they are not reported. */
  readonly released: Set<string>
  /** Ends the claim loop. */
  readonly claiming: AbortController
  /** Ends everything else. */
  readonly living: AbortController
}

/** Runs `work` with a signal that is aborted after `ms`. */
const within = async (clock: Clock, ms: number, work: (signal: AbortSignal) => Promise<void>): Promise<void> => {
  const limit = new AbortController()
  const timer = new AbortController()
  clock.sleep(ms, timer.signal).then(
    () => limit.abort(),
    () => undefined,
  )
  await work(limit.signal).finally(() => timer.abort())
}

const isReported = (ref: JobRef, unconfirmed: readonly JobRef[]): boolean =>
  unconfirmed.some(({ jobId, epoch }) => jobId === ref.jobId && epoch === ref.epoch)

/** Gives back what still runs: the server's own lock and fence make it safe for another instance to take it at once. */
const releaseRunning = (deps: ShutdownDeps): void => {
  const unconfirmed = deps.outbox.unconfirmed()
  for (const ref of deps.leases.refs()) {
    if (isReported(ref, unconfirmed)) continue
    deps.released.add(ref.jobId)
    deps.leases.callOff(ref, 'the connector is stopping')
  }
}

const deregister = async (deps: ShutdownDeps, signal: AbortSignal): Promise<void> => {
  if (deps.registration.current() === null) return
  try {
    await deps.api.deregister({ instanceId: deps.instanceId, release: deps.leases.refs() }, signal)
  } catch {
    // Its instance is gone for the control plane after three missed renewals; nothing depends on this call.
    deps.log.warn({ event: 'deregister_failed' }, 'could not deregister')
  }
}

/**
 * The end, in order: no new jobs; what runs may finish while leases are renewed; the rest is released; outcomes are
 * flushed; the instance is taken off. What could not be reported is released as well, and done again elsewhere.
 */
export const shutDown = async (deps: ShutdownDeps): Promise<void> => {
  deps.log.info({ event: 'stopping', inFlight: deps.leases.refs().length }, 'connector stopping')
  deps.claiming.abort()
  await within(deps.clock, FINISH_MS, (signal) => deps.slots.whenIdle(signal))
  releaseRunning(deps)
  await within(deps.clock, FLUSH_MS, (signal) => deps.outbox.flush(signal))
  if (deps.outbox.size() > 0) {
    deps.log.error({ event: 'reports_lost', count: deps.outbox.size() }, 'outcomes could not be reported in time')
  }
  await within(deps.clock, DEREGISTER_MS, (signal) => deregister(deps, signal))
  deps.living.abort()
}
