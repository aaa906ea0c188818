import type { Logger } from '../observability/log.ts'
import { REPORT_BATCH, type Report, type ReportResponse } from '../protocol/calls.ts'
import type { JobRef } from '../protocol/job.ts'
import { type ApiClient, ApiError } from './api-client.ts'
import type { GrantChange, Journal } from './journal.ts'
import { type CallDeps, type Caller, createCaller } from './keep-trying.ts'
import { createWakeup } from './wakeup.ts'

/**
 * Outcomes on their way to the control plane.
 *
 * A final outcome stays here until the control plane has answered for it (`accepted`, `duplicate` or `stale`), however
 * long that takes, and in the journal, which the next process begins with.
 *
 * One report that the control plane cannot take, for whatever reason and with whatever status, must never hold the
 * others. So there are two lanes. Reports start in `fresh` and travel in batches. A batch that is refused shrinks to
 * single reports; one that is refused alone moves to `refused`, where reports are tried one at a time, in turn. Each
 * lane has its own back-off: a refused report delays itself, and a control plane that refuses everything is not asked
 * faster than any other that is failing.
 */
export interface Outbox {
  /** `change`: what the outcome means for the grant that it is about. */
  add(report: Report, change?: GrantChange): void
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
  readonly log: Logger
  readonly instanceId: string
  readonly journal: Journal
  /** The control plane has answered for the outcome of this job. */
  readonly onConfirmed: (ref: JobRef) => void
}

type Keyed = { jobId: string; epoch: number } | { grantId: string; generation: number }

const keyOf = (item: Keyed): string =>
  'jobId' in item ? `job ${item.epoch} ${item.jobId}` : `grant ${item.generation} ${item.grantId}`

const refOf = (item: Keyed): Record<string, unknown> =>
  'jobId' in item ? { jobId: item.jobId, epoch: item.epoch } : { grantId: item.grantId, generation: item.generation }

const IDLE_MS = 60_000
/** What was refused a moment ago is not tried again at once just because its lane was empty. */
const FIRST_RETRY_MS = 500

type LaneName = 'fresh' | 'refused'

interface Lane {
  readonly name: LaneName
  readonly caller: Caller
  /** On the monotonic clock. */
  notBefore: number
  /** Its next back-off is skipped. Only the flush at the end asks for that; a new outcome must not. */
  hurried: boolean
}

interface Waiting {
  readonly report: Report
  readonly lane: LaneName
}

/**
 * An answer about what was sent. A token, a version or an instance that is not welcome is about us, and no answer at
 * all about the network: then neither lane has a chance.
 */
const isRefusal = (error: ApiError): boolean =>
  error.status !== null &&
  ![401, 403, 426].includes(error.status) &&
  (error.kind === 'bad_request' || error.kind === 'unreachable')

export const createOutbox = (deps: OutboxDeps): Outbox => {
  /** In the order of their turn. */
  const waiting = new Map<string, Waiting>(
    deps.journal.reports().map((report) => [keyOf(report), { report, lane: 'fresh' }]),
  )
  const news = createWakeup(deps.clock)
  const emptied = new Set<() => void>()
  let batchLimit = REPORT_BATCH

  const hold = (lane: Lane, ms: number): void => {
    lane.notBefore = lane.hurried ? 0 : Math.max(lane.notBefore, deps.clock.monotonic() + ms)
    lane.hurried = false
  }

  const createLane = (name: LaneName): Lane => {
    const lane: Lane = {
      name,
      notBefore: 0,
      hurried: false,
      caller: createCaller('report', deps, {
        // A readable refusal has its own line; it is no outage. Of what was refused before, all has been said.
        isOutage: (error) => !isRefusal(error) || (error.code === null && name === 'fresh'),
        pause: async (ms, _signal, error) => {
          for (const held of isRefusal(error) ? [lane] : [fresh, refused]) hold(held, ms)
        },
      }),
    }
    return lane
  }
  const fresh = createLane('fresh')
  const refused = createLane('refused')

  const confirm = (results: ReportResponse['results']): number => {
    let confirmed = 0
    for (const result of results) {
      if (!waiting.delete(keyOf(result))) continue
      deps.journal.remove(keyOf(result))
      confirmed++
      if ('jobId' in result) deps.onConfirmed({ jobId: result.jobId, epoch: result.epoch })
    }
    if (waiting.size === 0) for (const resolve of emptied) resolve()
    return confirmed
  }

  /** To the end of the refused lane: it is kept, and the others come first. */
  const setAside = (report: Report, from: Lane, error: ApiError): void => {
    waiting.delete(keyOf(report))
    waiting.set(keyOf(report), { report, lane: 'refused' })
    if (from === refused) return
    refused.notBefore = Math.max(refused.notBefore, deps.clock.monotonic() + FIRST_RETRY_MS)
    deps.log.warn(
      { event: 'report_refused', ...refOf(report), status: error.status, code: error.code, reason: error.message },
      'control plane refuses a report; it is kept and tried again',
    )
  }

  const reportsOf = (lane: Lane): Report[] =>
    [...waiting.values()].filter((one) => one.lane === lane.name).map(({ report }) => report)

  const send = async (lane: Lane, batch: number, signal: AbortSignal): Promise<void> => {
    const limit = lane === refused ? 1 : Math.min(batch, batchLimit)
    const reports = reportsOf(lane).slice(0, limit)
    try {
      const { results } = await deps.api.report({ instanceId: deps.instanceId, reports }, signal)
      if (confirm(results) === 0) {
        throw new ApiError('unreachable', 'the answer confirms none of our reports', { status: 200 })
      }
      if (lane === fresh) batchLimit = Math.min(batchLimit * 2, batch)
    } catch (error) {
      if (error instanceof ApiError && isRefusal(error)) {
        const [only] = reports
        if (reports.length === 1 && only !== undefined) setAside(only, lane, error)
        else batchLimit = 1
      }
      throw error
    }
  }

  /** The lane whose turn comes first. When both are due they take turns, so that neither starves the other. */
  const nextLane = (last: Lane): Lane | null => {
    const order = last === fresh ? [refused, fresh] : [fresh, refused]
    const busy = order.filter((lane) => [...waiting.values()].some((one) => one.lane === lane.name))
    const now = deps.clock.monotonic()
    return busy.find((lane) => lane.notBefore <= now) ?? busy.toSorted((a, b) => a.notBefore - b.notBefore)[0] ?? null
  }

  return {
    add: (report, change) => {
      if (report.outcome === 'progress') return
      deps.journal.add(keyOf(report), report, change)
      waiting.set(keyOf(report), { report, lane: waiting.get(keyOf(report))?.lane ?? 'fresh' })
      news.wake()
    },
    size: () => waiting.size,
    unconfirmed: () =>
      [...waiting.values()].flatMap(({ report }) =>
        'jobId' in report ? [{ jobId: report.jobId, epoch: report.epoch }] : [],
      ),
    loop: async (signal) => {
      let last = refused
      while (!signal.aborted) {
        const lane = nextLane(last)
        const ms = lane === null ? IDLE_MS : lane.notBefore - deps.clock.monotonic()
        if (lane === null || ms > 0) {
          await news.wait(ms, signal)
          continue
        }
        last = lane
        await lane.caller.attempt((registered) => send(lane, registered.knobs.reportBatch, signal), signal)
      }
    },
    flush: async (signal) => {
      if (waiting.size === 0 || signal.aborted) return
      for (const lane of [fresh, refused]) Object.assign(lane, { notBefore: 0, hurried: true })
      news.wake()
      await new Promise<void>((resolve) => {
        emptied.add(resolve)
        signal.addEventListener('abort', () => resolve(), { once: true })
      })
    },
  }
}
