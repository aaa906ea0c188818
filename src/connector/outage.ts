import type { Clock } from '../observability/clock.ts'
import type { Logger } from '../observability/log.ts'
import { ApiError } from './api-client.ts'

/** The calls whose success or failure tells whether the control plane is there for us. */
export type CallName = 'register' | 'claim' | 'renew' | 'report' | 'resync'

/**
 * Says once that the control plane fails and once that it is back, however many loops run into it meanwhile.
 *
 * Each call counts by itself: a control plane that hands out jobs but refuses reports is failing until reports get
 * through. Another line is written only when the kind of failure changes, e.g. from unreachable to a refused token.
 */
export interface Outage {
  failed(call: CallName, error: ApiError): void
  succeeded(call: CallName): void
}

interface Failing {
  readonly since: number
  readonly calls: Set<CallName>
  kind: ApiError['kind']
}

const MESSAGES: Record<ApiError['kind'], string> = {
  unreachable: 'control plane unreachable, retrying',
  rejected: 'control plane refuses our token, retrying',
  upgrade_required: 'control plane wants a newer connector; no jobs are taken until then',
  unknown_instance: 'control plane does not know this instance, registering again',
  bad_request: 'control plane refuses a request, retrying',
}

export const createOutage = (clock: Clock, log: Logger): Outage => {
  let failing: Failing | null = null
  const say = (call: CallName, error: ApiError): void =>
    log.warn(
      { event: 'control_plane_failing', call, status: error.status, code: error.code, reason: error.message },
      MESSAGES[error.kind],
    )
  return {
    failed: (call, error) => {
      if (failing === null) {
        failing = { since: clock.monotonic(), calls: new Set([call]), kind: error.kind }
        say(call, error)
        return
      }
      failing.calls.add(call)
      if (failing.kind !== error.kind) say(call, error)
      failing.kind = error.kind
    },
    succeeded: (call) => {
      if (failing === null) return
      failing.calls.delete(call)
      if (failing.calls.size > 0) return
      const ms = Math.round(clock.monotonic() - failing.since)
      failing = null
      log.info({ event: 'control_plane_recovered', ms }, 'control plane recovered')
    },
  }
}

/** What is thrown by a call but is no ApiError is a defect here; it is retried like an unreachable control plane. */
export const asApiError = (error: unknown): ApiError =>
  error instanceof ApiError
    ? error
    : new ApiError('unreachable', error instanceof Error ? `defect: ${error.name}` : 'defect', {})
