import type { Clock } from '../observability/clock.ts'
import type { ApiError } from './api-client.ts'
import { type Backoff, createBackoff } from './backoff.ts'
import { asApiError, type CallName, type Outage } from './outage.ts'
import type { Registered, Registration } from './register.ts'
import type { Wakeup } from './wakeup.ts'

/** What all loops that talk to the control plane have in common. */
export interface CallDeps {
  readonly clock: Clock
  readonly random: () => number
  readonly outage: Outage
  readonly registration: Registration
}

export interface Caller {
  /** One attempt, registered first where needed. After a failure it waits as the back-off says and gives null. */
  attempt<T>(call: (registered: Registered) => Promise<T>, signal: AbortSignal): Promise<{ value: T } | null>
}

const isHopelessForNow = (error: ApiError): boolean => error.kind === 'rejected' || error.kind === 'upgrade_required'

const failed = async (
  name: CallName,
  error: ApiError,
  deps: CallDeps,
  backoff: Backoff,
  wait: (ms: number) => Promise<void>,
): Promise<void> => {
  if (error.kind === 'unknown_instance') deps.registration.forget()
  else deps.outage.failed(name, error)
  await wait(backoff.next({ retryAfterMs: error.retryAfterMs, atCap: isHopelessForNow(error) }))
}

/**
 * The one retry loop's body: every failure is recorded, waited out with full jitter and survived. The loop around it
 * is the caller's, because each has its own idea of when it is done.
 */
export const createCaller = (name: CallName, deps: CallDeps, wakeup?: Wakeup): Caller => {
  const backoff = createBackoff(deps.random)
  return {
    attempt: async (call, signal) => {
      const wait = (ms: number): Promise<void> =>
        wakeup ? wakeup.wait(ms, signal) : deps.clock.sleep(ms, signal).catch(() => undefined)
      try {
        const value = await call(await deps.registration.ensure(signal))
        deps.outage.succeeded(name)
        backoff.reset()
        return { value }
      } catch (error) {
        if (!signal.aborted) await failed(name, asApiError(error), deps, backoff, wait)
        return null
      }
    },
  }
}
