/**
 * What a connector's report changes. A report is judged first (was this outcome seen, is it of the newest hand-out),
 * then remembered, then applied; all in one transaction, so that a repeated report finds either everything or nothing.
 */

import type { Report } from '../../protocol/calls.ts'
import { REPORT_ERRORS } from '../../protocol/report-errors.ts'
import type { JobFailure } from '../../protocol/results.ts'
import { AbsentResult, InspectResult, PresentResult } from '../../protocol/results.ts'
import type { Tx } from '../store/store.ts'
import { attempt } from './attempt.ts'
import { SYSTEM } from './audit.ts'
import { CANCELLED_PAUSE_MS } from './back-off.ts'
import type { Deps } from './deps.ts'
import { absentSucceeded, ensureFailed, presentSucceeded } from './ensure-outcomes.ts'
import { endGrant } from './grants.ts'
import { type JobRecord, PRIORITY } from './model.ts'
import { inspectionFailed, inspectionSucceeded } from './servers.ts'

export type ReportStatus = 'accepted' | 'duplicate' | 'stale'

type Of<Outcome extends Report['outcome']> = Extract<Report, { outcome: Outcome }>

/** A result of another kind than the job's, or without what was asked for. Trying again may bring a better one. */
const invalidResult = (message: string): JobFailure => ({
  code: 'invalid_result',
  message,
  hint: REPORT_ERRORS.invalid_result.hint,
  retryable: REPORT_ERRORS.invalid_result.retryable,
})

const progress = async (tx: Tx, connectorId: string, report: Of<'progress'>): Promise<ReportStatus> => {
  const job = await tx.jobs.get(report.jobId)
  if (!job || job.connectorId !== connectorId || job.epoch !== report.epoch || !job.lease) return 'stale'
  if (job.progress && job.progress.seq >= report.seq) return 'duplicate'
  await tx.jobs.put({ ...job, progress: { seq: report.seq, step: report.step } })
  return 'accepted'
}

const applyFailure = async (tx: Tx, deps: Deps, job: JobRecord, failure: JobFailure): Promise<void> => {
  deps.log.warn({ event: 'job_failed', job: job.id, kind: job.kind, err: { code: failure.code } }, 'job failed')
  if (failure.code === 'cancelled') {
    await tx.jobs.put({ ...job, dueAt: deps.clock.now() + CANCELLED_PAUSE_MS })
    return
  }
  if (job.kind === 'inspect') await inspectionFailed(tx, deps, job, failure)
  else await ensureFailed(tx, deps, job, failure)
}

const applySuccess = async (tx: Tx, deps: Deps, job: JobRecord, result: unknown): Promise<JobFailure | null> => {
  if (job.kind === 'inspect') {
    const parsed = InspectResult.safeParse(result)
    if (!parsed.success) return invalidResult('the result is not that of an inspection')
    await inspectionSucceeded(tx, deps, job, parsed.data)
    return null
  }
  if (job.priority === PRIORITY.absent) {
    const parsed = AbsentResult.safeParse(result)
    if (!parsed.success) return invalidResult('the result is not that of an end')
    return absentSucceeded(tx, deps, job, parsed.data)
  }
  const parsed = PresentResult.safeParse(result)
  if (!parsed.success) return invalidResult('the result is not that of a grant')
  const problem = await presentSucceeded(tx, deps, job, parsed.data)
  return problem === null ? null : invalidResult(problem)
}

const final = async (
  tx: Tx,
  deps: Deps,
  connectorId: string,
  report: Of<'succeeded' | 'failed'>,
): Promise<ReportStatus> => {
  const job = await tx.jobs.get(report.jobId)
  if (!job || job.connectorId !== connectorId) return 'stale'
  if (await tx.outcomes.get(report.jobId, report.epoch)) return 'duplicate'
  if (report.epoch !== job.epoch) return 'stale'
  const { outcome } = report
  const body = outcome === 'succeeded' ? report.result : report.error
  await tx.outcomes.add({ subject: report.jobId, counter: report.epoch, outcome, at: deps.clock.now(), body })
  const freed: JobRecord = { ...job, lease: null }
  await tx.jobs.put(freed)
  const failure = outcome === 'failed' ? report.error : await applySuccess(tx, deps, freed, report.result)
  if (failure) await applyFailure(tx, deps, freed, failure)
  return 'accepted'
}

/**
 * A server, or a connector's timer, ended a grant by itself. It ends here too, but is closed only by the `absent` job
 * that follows: that one returns the recorded result, from the server's own ledger.
 */
const expired = async (tx: Tx, deps: Deps, connectorId: string, report: Of<'expired'>): Promise<ReportStatus> => {
  const grant = await tx.grants.get(report.grantId)
  if (!grant || grant.connectorId !== connectorId || report.generation > grant.generation) return 'stale'
  if (await tx.outcomes.get(report.grantId, report.generation)) return 'duplicate'
  const { grantId: subject, generation: counter, result: body } = report
  await tx.outcomes.add({ subject, counter, outcome: 'expired', at: deps.clock.now(), body })
  // An extension overtook the end: its own job makes the server match again.
  if (report.generation === grant.generation) await endGrant(tx, deps, grant, 'expired', SYSTEM)
  return 'accepted'
}

/** How a report that we can't read, or can't apply, counts for its job. */
export const unusableReport = (message: string): JobFailure => ({
  code: 'invalid_report',
  message: message.slice(0, 1000),
  hint: REPORT_ERRORS.invalid_report.hint,
  retryable: REPORT_ERRORS.invalid_report.retryable,
})

const judge = (tx: Tx, deps: Deps, connectorId: string, report: Report): Promise<ReportStatus> => {
  if (report.outcome === 'progress') return progress(tx, connectorId, report)
  if (report.outcome === 'expired') return expired(tx, deps, connectorId, report)
  return final(tx, deps, connectorId, report)
}

/**
 * Each report by itself: one that we can't apply (a defect of ours) counts as that job's failure, and what can't even
 * count as that is let go as `stale`, because a connector repeats what is not answered for ever. No end is lost with
 * it: the control plane's own `absent` job goes on until it is confirmed.
 */
export const acceptReport = async (tx: Tx, deps: Deps, connectorId: string, report: Report): Promise<ReportStatus> => {
  const subject = report.outcome === 'expired' ? report.grantId : report.jobId
  const judged = await attempt(tx, deps, `report ${subject}`, () => judge(tx, deps, connectorId, report))
  if (judged.ok) return judged.value
  if (report.outcome !== 'succeeded' && report.outcome !== 'failed') return 'stale'
  const { jobId, epoch, at } = report
  const error = unusableReport('the control plane could not apply the report; its log says why')
  const failed = { jobId, epoch, at, outcome: 'failed', error } as const
  const counted = await attempt(tx, deps, `failed report ${subject}`, () => judge(tx, deps, connectorId, failed))
  return counted.ok ? counted.value : 'stale'
}
