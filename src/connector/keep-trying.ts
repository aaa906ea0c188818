import type { Clock } from '../observability/clock.ts'
import type { ApiError } from './api-client.ts'
import { createBackoff } from './backoff.ts'
import { asApiError, type CallName, type Outage } from './outage.ts'
import type { Registered, Registration } from './register.ts'

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

export interface CallerOptions {
  /** What is done with the time of a back-off. Default: sleep. */
  readonly pause?: (ms: number, signal: AbortSignal, error: ApiError) => Promise<void>
  /** Whether a failure counts as the control plane failing. Default: all do. */
  readonly isOutage?: (error: ApiError) => boolean
}

const isHopelessForNow = (error: ApiError): boolean => error.kind === 'rejected' || error.kind === 'upgrade_required'

/**
 * The one retry loop's body: every failure is recorded, waited out with full jitter and survived. The loop around it
 * is the caller's, because each has its own idea of when it is done.
 */
export const createCaller = (name: CallName, deps: CallDeps, options: CallerOptions = {}): Caller => {
  const backoff = createBackoff(deps.random)
  const sleep = (ms: number, signal: AbortSignal): Promise<void> => deps.clock.sleep(ms, signal).catch(() => undefined)
  const { pause = sleep, isOutage = () => true } = options

  const failed = async (error: ApiError, signal: AbortSignal): Promise<void> => {
    if (error.kind === 'unknown_instance') deps.registration.forget()
    else if (isOutage(error)) deps.outage.failed(name, error)
    const ms = backoff.next({ retryAfterMs: error.retryAfterMs, atCap: isHopelessForNow(error) })
    await pause(ms, signal, error)
  }

  return {
    attempt: async (call, signal) => {
      try {
        const value = await call(await deps.registration.ensure(signal))
        deps.outage.succeeded(name)
        backoff.reset()
        return { value }
      } catch (error) {
        if (!signal.aborted) await failed(asApiError(error), signal)
        return null
      }
    },
  }
}
