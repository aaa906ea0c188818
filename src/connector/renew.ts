import { DEFAULT_KNOBS, type RenewResponse } from '../protocol/calls.ts'
import type { JobRef } from '../protocol/job.ts'
import type { ApiClient } from './api-client.ts'
import { type CallDeps, createCaller } from './keep-trying.ts'
import type { Leases } from './leases.ts'
import type { Skew } from './skew.ts'
import type { Wakeup } from './wakeup.ts'

export interface RenewDeps extends CallDeps {
  readonly skew: Skew
  readonly api: ApiClient
  readonly leases: Leases
  readonly instanceId: string
  /**
   * Woken by a registration, which may want another rhythm, and when a job arrives, whose lease may be half over
   * already, because a claim waits long.
   */
  readonly wakeup: Wakeup
}

/** Between two calls, whatever leases and knobs say: neither a lease that an answer leaves out nor a 0 may make this a hot loop. */
const SHORTEST_GAP_MS = 1000

/** Until the first registration, which wakes the loop. */
const IDLE_MS = 60_000

const REASONS = { cancel: 'the control plane called the job off', lost: 'the lease was lost' } as const

const apply = (results: RenewResponse['results'], leases: Leases, sentAt: number): void => {
  for (const { jobId, epoch, status } of results) {
    const ref: JobRef = { jobId, epoch }
    if (status === 'ok') leases.renewed(ref, sentAt)
    else leases.callOff(ref, REASONS[status])
  }
}

const renew = async (deps: RenewDeps, signal: AbortSignal): Promise<void> => {
  const sentAt = deps.clock.monotonic()
  const body = { instanceId: deps.instanceId, inFlight: deps.leases.refs() }
  const { results, serverTime } = await deps.api.renew(body, signal)
  // However long it took: the control plane looks at its clock when it answers.
  deps.skew.observe(serverTime, deps.clock.monotonic())
  apply(results, deps.leases, sentAt)
}

const wanted = (deps: RenewDeps): number => (deps.registration.current()?.knobs ?? DEFAULT_KNOBS).renewEveryMs

/**
 * Keeps all leases with one call every `renewEveryMs`, and sooner where a lease would reach a third of its life. It
 * also runs with nothing in flight: to the control plane it is the sign that this instance lives.
 */
export const renewLoop = async (deps: RenewDeps, signal: AbortSignal): Promise<void> => {
  const { clock, leases, registration, wakeup } = deps
  const caller = createCaller('renew', deps)
  let succeededAt = clock.monotonic()
  let notBefore = 0
  while (!signal.aborted) {
    const due = Math.max(notBefore, Math.min(succeededAt + wanted(deps), leases.renewalDue()))
    const ms = due - clock.monotonic()
    if (ms > 0 || registration.current() === null) {
      await wakeup.wait(ms > 0 ? ms : IDLE_MS, signal)
      continue
    }
    const startedAt = clock.monotonic()
    const done = await caller.attempt(() => renew(deps, signal), signal)
    if (done !== null) succeededAt = startedAt
    notBefore = startedAt + SHORTEST_GAP_MS
  }
}
