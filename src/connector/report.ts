import { REPORT_BATCH, type Report, type ReportResponse } from '../protocol/calls.ts'
import type { JobRef } from '../protocol/job.ts'
import { type ApiClient, ApiError } from './api-client.ts'
import { type CallDeps, createCaller } from './keep-trying.ts'
import { createWakeup } from './wakeup.ts'

/**
 * Outcomes on their way to the control plane.
 *
 * A final outcome stays here until the control plane has answered for it (`accepted`, `duplicate` or `stale`), however
 * long that takes. It is kept in memory for now: what is lost with the process is handed out again.
 */
export interface Outbox {
  add(report: Report): void
  size(): number
  /** Jobs whose outcome has not been confirmed. */
  unconfirmed(): JobRef[]
  /** Sends until told to stop. */
  loop(signal: AbortSignal): Promise<void>
  /** Resolves when everything is confirmed, or the signal is aborted. */
  flush(signal: AbortSignal): Promise<void>
}

export interface OutboxDeps extends CallDeps {
  readonly api: ApiClient
  readonly instanceId: string
  /** The control plane has answered for the outcome of this job. */
  readonly onConfirmed: (ref: JobRef) => void
}

type Keyed = { jobId: string; epoch: number } | { grantId: string; generation: number }

const keyOf = (item: Keyed): string =>
  'jobId' in item ? `job ${item.epoch} ${item.jobId}` : `grant ${item.generation} ${item.grantId}`

const IDLE_MS = 60_000

export const createOutbox = (deps: OutboxDeps): Outbox => {
  const waiting = new Map<string, Report>()
  const news = createWakeup(deps.clock)
  /** Only the flush at the end cuts a back-off short; a new outcome must not. */
  const hurry = createWakeup(deps.clock)
  const caller = createCaller('report', deps, hurry)
  const emptied = new Set<() => void>()
  /** Shrinks to 1 when a batch is refused, so that one report the control plane cannot take never holds the others. */
  let batchLimit = REPORT_BATCH

  const confirm = (results: ReportResponse['results']): number => {
    let confirmed = 0
    for (const result of results) {
      if (!waiting.delete(keyOf(result))) continue
      confirmed++
      if ('jobId' in result) deps.onConfirmed({ jobId: result.jobId, epoch: result.epoch })
    }
    if (waiting.size === 0) for (const resolve of emptied) resolve()
    return confirmed
  }

  /** A refused report goes to the end of the queue: it is kept, and the others come first. */
  const moveToEnd = (reports: readonly Report[]): void => {
    for (const report of reports) {
      waiting.delete(keyOf(report))
      waiting.set(keyOf(report), report)
    }
  }

  const send = async (limit: number, signal: AbortSignal): Promise<void> => {
    const reports = [...waiting.values()].slice(0, Math.min(limit, batchLimit))
    try {
      const { results } = await deps.api.report({ instanceId: deps.instanceId, reports }, signal)
      if (confirm(results) === 0) throw new ApiError('unreachable', 'the answer confirms none of our reports', {})
      batchLimit = Math.min(batchLimit * 2, limit)
    } catch (error) {
      if (error instanceof ApiError && error.kind === 'bad_request') {
        batchLimit = 1
        moveToEnd(reports)
      }
      throw error
    }
  }

  return {
    add: (report) => {
      if (report.outcome === 'progress') return
      waiting.set(keyOf(report), report)
      news.wake()
    },
    size: () => waiting.size,
    unconfirmed: () =>
      [...waiting.values()].flatMap((report) =>
        'jobId' in report ? [{ jobId: report.jobId, epoch: report.epoch }] : [],
      ),
    loop: async (signal) => {
      while (!signal.aborted) {
        if (waiting.size === 0) await news.wait(IDLE_MS, signal)
        else await caller.attempt((registered) => send(registered.knobs.reportBatch, signal), signal)
      }
    },
    flush: async (signal) => {
      if (waiting.size === 0 || signal.aborted) return
      hurry.wake()
      await new Promise<void>((resolve) => {
        emptied.add(resolve)
        signal.addEventListener('abort', () => resolve(), { once: true })
      })
    },
  }
}
