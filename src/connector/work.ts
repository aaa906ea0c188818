import type { Clock } from '../observability/clock.ts'
import type { Logger } from '../observability/log.ts'
import type { Report } from '../protocol/calls.ts'
import type { JobHead } from '../protocol/job.ts'
import { type ExecutorDeps, executeJob, type JobOutcome } from './executor.ts'
import type { GrantChange } from './journal.ts'
import type { KnownGrants } from './known-grants.ts'
import type { Lease, Leases } from './leases.ts'
import type { Outbox } from './report.ts'
import type { Slots } from './slots.ts'

export interface WorkDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly executor: ExecutorDeps
  readonly leases: Leases
  readonly slots: Slots
  readonly outbox: Outbox
  readonly known: Pick<KnownGrants, 'learn' | 'forget'>
  /** No job is held longer than this, renewals included. Milliseconds. */
  readonly jobMaxMs: () => number
  /** Jobs that were given back at the end are not reported: somebody else does them. */
  readonly isReleased: (lease: Lease) => boolean
}

const reportOf = (lease: Lease, outcome: JobOutcome, now: number): Report => {
  const head = { jobId: lease.jobId, epoch: lease.epoch, at: new Date(now).toISOString() }
  return outcome.outcome === 'succeeded'
    ? { ...head, outcome: 'succeeded', result: outcome.result }
    : { ...head, outcome: 'failed', error: outcome.error }
}

/** Who, where, what and how it ended: one line per job that an auditor can read by itself. */
const auditFields = (head: JobHead, outcome: JobOutcome, ms: number): Record<string, unknown> => {
  const { job } = outcome
  const grant = job?.kind === 'ensure' ? job.grant : null
  return {
    event: 'job_finished',
    jobId: head.jobId,
    epoch: head.epoch,
    kind: head.kind,
    attempt: job?.attempt,
    integration: job?.integration.id,
    server: job?.server.name,
    host: job?.server.host,
    port: job?.server.port,
    grantId: grant?.id,
    generation: grant?.generation,
    state: grant?.state,
    login: grant?.login,
    groups: grant?.groups,
    outcome: outcome.outcome,
    code: outcome.outcome === 'failed' ? outcome.error.code : undefined,
    ms: Math.round(ms),
  }
}

/** Where a defect happened, without its message: that may quote anything. */
const whereOf = (cause: unknown): string[] | undefined =>
  cause instanceof Error
    ? cause.stack
        ?.split('\n')
        .filter((line) => line.startsWith('    at '))
        .slice(0, 6)
    : undefined

const logOutcome = (log: Logger, head: JobHead, outcome: JobOutcome, ms: number): void => {
  const fields = auditFields(head, outcome, ms)
  if (outcome.outcome === 'succeeded') {
    log.info(fields, 'job finished')
    return
  }
  const defect = outcome.error.code === 'internal_error' ? whereOf(outcome.cause) : undefined
  log.warn({ ...fields, reason: outcome.error.message, defect }, 'job finished')
}

const watched = async (head: JobHead, deps: WorkDeps, work: () => Promise<void>): Promise<void> => {
  const timer = new AbortController()
  deps.clock.sleep(deps.jobMaxMs(), timer.signal).then(
    () => deps.leases.callOff(head, 'the job took longer than the control plane allows'),
    () => undefined,
  )
  await work().finally(() => timer.abort('done'))
}

/** Of what was done: a grant that is there has an end to come, and one that is gone has none. */
const changeOf = ({ outcome, job }: JobOutcome): GrantChange | undefined => {
  if (outcome !== 'succeeded' || job?.kind !== 'ensure') return undefined
  const { integration, server, grant } = job
  return grant.state === 'present' ? { learn: { integration, server, grant } } : { forget: grant.id }
}

const doJob = async (raw: unknown, head: JobHead, lease: Lease, deps: WorkDeps): Promise<void> => {
  const startedAt = deps.clock.monotonic()
  const outcome = await executeJob(raw, head, lease, deps.executor)
  logOutcome(deps.log, head, outcome, deps.clock.monotonic() - startedAt)
  const change = changeOf(outcome)
  if (!deps.isReleased(lease)) deps.outbox.add(reportOf(lease, outcome, deps.executor.skew.now()), change)
  if (change !== undefined && 'learn' in change) deps.known.learn([change.learn], 'applied')
  else if (change !== undefined) deps.known.forget(change.forget)
}

/** Takes a claimed job, does it in a slot of its own, and leaves its outcome in the outbox. Never rejects. */
export const startWork =
  (deps: WorkDeps) =>
  (raw: unknown, head: JobHead, lease: Lease): void => {
    const work = (): Promise<void> => watched(head, deps, () => doJob(raw, head, lease, deps))
    deps.slots.run(work).catch((error: unknown) => {
      deps.log.error({ event: 'defect', jobId: head.jobId, name: error instanceof Error ? error.name : '' }, 'defect')
    })
  }
