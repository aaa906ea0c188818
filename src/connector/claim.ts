import type { Health } from '../observability/health.ts'
import type { Logger } from '../observability/log.ts'
import { JobHead } from '../protocol/job.ts'
import { DurationMs } from '../protocol/primitives.ts'
import { type ApiClient, ApiError, type Claimed } from './api-client.ts'
import { type CallDeps, createCaller } from './keep-trying.ts'
import type { Lease, Leases } from './leases.ts'
import type { Registered } from './register.ts'
import type { Skew } from './skew.ts'
import type { Slots } from './slots.ts'

export interface ClaimDeps extends CallDeps {
  readonly api: ApiClient
  readonly log: Logger
  readonly leases: Leases
  readonly slots: Slots
  readonly instanceId: string
  readonly health: Health
  readonly skew: Skew
  /** Takes a job that has a lease and a slot; never rejects. */
  readonly start: (raw: unknown, head: JobHead, lease: Lease) => void
}

/** An empty answer that comes sooner than this is not a long poll: without a pause it would become a hot loop. */
const SHORTEST_POLL_MS = 1000
/** Nor may a control plane that wants no waiting at all make it one. */
const LEAST_PAUSE_MS = 250
/** How long the loop may wait, for whatever reason, before it shows a sign of life. */
const BEAT_EVERY_MS = 10_000

const readHead = (raw: unknown, log: Logger): JobHead | null => {
  const head = JobHead.safeParse(raw)
  if (head.success) return head.data
  log.error({ event: 'job_unreadable' }, 'a job without id, epoch or kind cannot even be answered')
  return null
}

/** Readable even where the rest of the job is not. */
const ttlOf = (raw: unknown, registered: Registered): number => {
  const ttl =
    typeof raw === 'object' && raw !== null && 'leaseTtlMs' in raw ? DurationMs.safeParse(raw.leaseTtlMs) : null
  return ttl?.success === true ? ttl.data : registered.knobs.leaseTtlMs
}

const startAll = (claimed: Claimed, registered: Registered, sentAt: number, deps: ClaimDeps): number => {
  let started = 0
  for (const raw of claimed.jobs) {
    const head = readHead(raw, deps.log)
    // Without a slot it is left out of the next inFlight, and so handed out again elsewhere.
    if (head === null || deps.slots.free() === 0) continue
    const lease = deps.leases.add(head, ttlOf(raw, registered), sentAt)
    if (lease === null) continue
    deps.start(raw, head, lease)
    started++
  }
  return started
}

const claimOnce = async (
  registered: Registered,
  waitMs: number,
  deps: ClaimDeps,
  signal: AbortSignal,
): Promise<void> => {
  const sentAt = deps.clock.monotonic()
  const freeSlots = deps.slots.free()
  const body = { instanceId: deps.instanceId, freeSlots, waitMs, inFlight: deps.leases.refs() }
  const claimed = await deps.api.claim(body, signal)
  // It waited there, not on the way: the answer is as old as now.
  if (claimed !== null) deps.skew.observe(claimed.serverTime, deps.clock.monotonic())
  deps.health.claimed()
  const started = claimed === null ? 0 : startAll(claimed, registered, sentAt, deps)
  const tookMs = deps.clock.monotonic() - sentAt
  const leastMs = Math.max(LEAST_PAUSE_MS, Math.min(SHORTEST_POLL_MS, waitMs))
  if (started === 0 && tookMs < leastMs) await deps.clock.sleep(leastMs, signal).catch(() => undefined)
}

/** A loop that waits on purpose is alive: a long Retry-After must not get the process restarted. */
const pauseWithBeats =
  ({ clock, health }: ClaimDeps) =>
  async (ms: number, signal: AbortSignal): Promise<void> => {
    for (let left = ms; left > 0 && !signal.aborted; left -= BEAT_EVERY_MS) {
      health.beat()
      await clock.sleep(Math.min(left, BEAT_EVERY_MS), signal).catch(() => undefined)
    }
  }

/**
 * Asks for work while there are free slots, one long poll at a time. `upgrade_required` stops the asking: until a new
 * registration succeeds nothing is claimed, while leases and reports go on.
 */
export const claimLoop = async (deps: ClaimDeps, signal: AbortSignal): Promise<void> => {
  const caller = createCaller('claim', deps, { pause: pauseWithBeats(deps) })
  let outdated = false
  let failing = false
  while (!signal.aborted) {
    deps.health.beat()
    if (deps.slots.free() === 0) {
      await deps.slots.whenFree(BEAT_EVERY_MS, signal)
      continue
    }
    const done = await caller.attempt(async (registered) => {
      const welcome = outdated ? await deps.registration.renew(signal) : registered
      outdated = false
      try {
        // After a failure it does not wait for jobs: the answer tells at once that the control plane is back.
        await claimOnce(welcome, failing ? 0 : welcome.knobs.claimWaitMs, deps, signal)
      } catch (error) {
        outdated = error instanceof ApiError && error.kind === 'upgrade_required'
        throw error
      }
    }, signal)
    failing = done === null
  }
}
