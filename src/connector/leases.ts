import { JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import type { JobRef } from '../protocol/job.ts'

/**
 * A job in our hands. Measured from the moment the request was sent that gave or renewed it, on a clock that never
 * steps: so our idea of its end is never later than the control plane's.
 */
export interface Lease extends JobRef {
  /** Aborted when the job is called off, lost, held for too long, or released at the end. */
  readonly signal: AbortSignal
  /** Called before every side effect. Throws `cancelled` once two thirds of the lease passed without a renewal. */
  checkpoint(): void
}

export interface Leases {
  /** Null if exactly this hand-out is already here. An older hand-out of the same job is called off. */
  add(ref: JobRef, ttlMs: number, sentAt: number): Lease | null
  /** The control plane has the outcome, or has the job back. */
  remove(ref: JobRef): void
  renewed(ref: JobRef, sentAt: number): void
  callOff(ref: JobRef, why: string): void
  /** Everything that the control plane counts as ours: what runs, and what is not reported yet. */
  refs(): JobRef[]
  /** On the monotonic clock: when the next renewal must be sent at the latest. Infinity without leases. */
  renewalDue(): number
}

interface Held {
  readonly ref: JobRef
  readonly ttlMs: number
  readonly controller: AbortController
  anchor: number
}

const keyOf = (ref: JobRef): string => `${ref.epoch} ${ref.jobId}`

const checkpointOf = (held: Held, clock: Clock): void => {
  if (held.controller.signal.aborted) throw new JobError('cancelled', String(held.controller.signal.reason))
  if (clock.monotonic() - held.anchor > (held.ttlMs * 2) / 3) {
    throw new JobError('cancelled', 'two thirds of the lease passed without a renewal')
  }
}

export const createLeases = (clock: Clock): Leases => {
  const all = new Map<string, Held>()

  const callOff = (ref: JobRef, why: string): void => all.get(keyOf(ref))?.controller.abort(why)

  const callOffOlder = (ref: JobRef): void => {
    for (const held of all.values()) {
      if (held.ref.jobId === ref.jobId) held.controller.abort('the job was handed out again')
    }
  }

  return {
    add: ({ jobId, epoch }, ttlMs, sentAt) => {
      const ref = { jobId, epoch }
      if (all.has(keyOf(ref))) return null
      callOffOlder(ref)
      const held: Held = { ref, ttlMs, controller: new AbortController(), anchor: sentAt }
      all.set(keyOf(ref), held)
      return { ...ref, signal: held.controller.signal, checkpoint: () => checkpointOf(held, clock) }
    },
    remove: (ref) => void all.delete(keyOf(ref)),
    renewed: (ref, sentAt) => {
      const held = all.get(keyOf(ref))
      if (held !== undefined) held.anchor = Math.max(held.anchor, sentAt)
    },
    callOff,
    refs: () => [...all.values()].map((held) => held.ref),
    renewalDue: () => {
      const alive = [...all.values()].filter((held) => !held.controller.signal.aborted)
      return Math.min(...alive.map((held) => held.anchor + held.ttlMs / 3))
    },
  }
}
