import { describe, expect, test } from 'vitest'
import { type ApiClient, ApiError } from '../../src/connector/api-client.ts'
import { NO_JOURNAL } from '../../src/connector/journal.ts'
import { createOutage } from '../../src/connector/outage.ts'
import type { Registered, Registration } from '../../src/connector/register.ts'
import { createOutbox } from '../../src/connector/report.ts'
import { createLogger } from '../../src/observability/log.ts'
import { DEFAULT_KNOBS, type Report } from '../../src/protocol/calls.ts'
import { fakeClock } from './fake-clock.ts'

// The outbox by itself, on a clock that the test moves: what it sends, in which calls, and when.

const registered: Registered = {
  serverTime: '2026-11-22T15:00:00Z',
  protocol: 1,
  controlPlaneId: 'cp',
  knobs: DEFAULT_KNOBS,
}
const report = (jobId: string): Report => ({
  jobId,
  epoch: 1,
  at: '2026-11-22T15:00:00Z',
  outcome: 'failed',
  error: { code: 'cancelled', message: '', hint: '', retryable: true },
})
const answer = (status: number, code: string | null = 'internal_error', retryAfterMs: number | null = null) =>
  new ApiError(status === 400 ? 'bad_request' : 'unreachable', `HTTP ${status}`, { status, code, retryAfterMs })

/** `refuse` decides what the control plane says to a call that names these jobs. */
const setUp = (refuse: (jobs: string[]) => ApiError | 'silence' | null) => {
  const clock = fakeClock()
  const lines: Record<string, unknown>[] = []
  const log = createLogger('debug', { write: (text) => void lines.push(JSON.parse(text) as Record<string, unknown>) })
  const calls: { at: number; jobs: string[] }[] = []
  const confirmed: string[] = []
  const api = {
    report: async ({ reports }: { reports: Report[] }) => {
      const jobs = reports.map((one) => ('jobId' in one ? one.jobId : one.grantId))
      calls.push({ at: clock.monotonic(), jobs })
      const refusal = refuse(jobs)
      if (refusal instanceof ApiError) throw refusal
      const taken = refusal === 'silence' ? [] : jobs
      return { results: taken.map((jobId) => ({ jobId, epoch: 1, status: 'accepted' as const })) }
    },
  } as unknown as ApiClient
  const registration = { ensure: async () => registered, forget: () => undefined } as unknown as Registration
  const outbox = createOutbox({
    journal: NO_JOURNAL,
    api,
    clock,
    log,
    random: () => 1,
    outage: createOutage(clock, log),
    registration,
    instanceId: 'instance-1',
    onConfirmed: ({ jobId }) => void confirmed.push(jobId),
  })
  const living = new AbortController()
  const events = () => lines.map((line) => line['event'])
  return { clock, outbox, calls, confirmed, living, lines, events, run: () => outbox.loop(living.signal) }
}
const poison = (error: ApiError | 'silence') => (jobs: string[]) => (jobs.includes('poison') ? error : null)

describe('a report that the control plane cannot take', () => {
  test.each([
    ['500', answer(500)],
    ['409', answer(409, 'conflict')],
    ['503', answer(503, 'busy')],
    ['400', answer(400, 'invalid_body')],
    ['404', answer(404, 'not_found')],
    ['a page of a proxy', answer(502, null)],
    ['silence', 'silence' as const],
  ])('%s: the others get through, and it is tried for ever with back-off', async (_name, refusal) => {
    const { clock, outbox, calls, confirmed, living, run } = setUp(poison(refusal))
    for (const jobId of ['poison', 'a', 'b', 'c']) outbox.add(report(jobId))
    const done = run()
    await clock.advance(10_000)
    expect(new Set(confirmed)).toEqual(new Set(['a', 'b', 'c']))
    expect(outbox.unconfirmed()).toEqual([{ jobId: 'poison', epoch: 1 }])
    calls.length = 0
    await clock.advance(3_600_000)
    expect(calls.every(({ jobs }) => jobs.join() === 'poison')).toBe(true)
    expect(calls.length).toBeGreaterThan(100)
    expect(calls.length).toBeLessThan(140)
    living.abort()
    await done
  })

  test('a new report does not wait for its back-off', async () => {
    const { clock, outbox, calls, confirmed, living, run } = setUp(poison(answer(500)))
    outbox.add(report('poison'))
    const done = run()
    await clock.advance(600_000)
    const from = clock.monotonic()
    for (const jobId of ['a', 'b']) outbox.add(report(jobId))
    await clock.advance(0)
    expect(confirmed).toEqual(['a', 'b'])
    expect(calls.filter(({ at }) => at >= from).map(({ jobs }) => jobs)).toEqual([['a', 'b']])
    living.abort()
    await done
  })

  test('several of them take turns, and what is taken after all is confirmed', async () => {
    let healed = false
    const { clock, outbox, confirmed, calls, living, run } = setUp((jobs) =>
      jobs.some((jobId) => jobId.startsWith('poison')) && !(healed && jobs.includes('poison_b')) ? answer(500) : null,
    )
    for (const jobId of ['poison_a', 'poison_b', 'poison_c']) outbox.add(report(jobId))
    const done = run()
    await clock.advance(600_000)
    expect(new Set(calls.slice(-3).map(({ jobs }) => jobs.join()))).toHaveLength(3)
    healed = true
    await clock.advance(120_000)
    expect(confirmed).toEqual(['poison_b'])
    expect(outbox.size()).toBe(2)
    living.abort()
    await done
  })

  test('is one line in the log, and no outage', async () => {
    const { clock, outbox, living, lines, run } = setUp(poison(answer(500)))
    outbox.add(report('poison'))
    outbox.add(report('a'))
    const done = run()
    for (let minute = 0; minute < 60; minute++) {
      await clock.advance(60_000)
      outbox.add(report(`job_${minute}`))
    }
    expect(lines).toEqual([
      expect.objectContaining({ event: 'report_refused', jobId: 'poison', status: 500, code: 'internal_error' }),
    ])
    living.abort()
    await done
  })
})

describe('a control plane that takes nothing', () => {
  test('and says so is not asked faster because there is much to say', async () => {
    const { clock, outbox, calls, living, run } = setUp(() => answer(503))
    for (let n = 0; n < 200; n++) outbox.add(report(`job_${n}`))
    const done = run()
    await clock.advance(3_600_000)
    expect(calls.length).toBeLessThan(280)
    expect(outbox.size()).toBe(200)
    living.abort()
    await done
  })

  test('because of the network or our token holds everything alike', async () => {
    for (const error of [
      new ApiError('unreachable', 'no answer', {}),
      new ApiError('rejected', 'HTTP 401', { status: 401, code: 'invalid_token' }),
      new ApiError('upgrade_required', 'HTTP 426', { status: 426, code: 'upgrade_required' }),
    ]) {
      const { clock, outbox, calls, events, living, run } = setUp(() => error)
      for (const jobId of ['a', 'b']) outbox.add(report(jobId))
      const done = run()
      await clock.advance(600_000)
      expect(calls.every(({ jobs }) => jobs.length === 2)).toBe(true)
      expect(calls.length).toBeLessThan(30)
      expect(events()).toEqual(['control_plane_failing'])
      living.abort()
      await done
    }
  })

  test('then takes all: everything gets through', async () => {
    let up = false
    const { clock, outbox, confirmed, living, run } = setUp(() => (up ? null : answer(503)))
    for (let n = 0; n < 300; n++) outbox.add(report(`job_${n}`))
    const done = run()
    await clock.advance(600_000)
    up = true
    await clock.advance(60_000)
    expect(new Set(confirmed).size).toBe(300)
    expect(outbox.size()).toBe(0)
    living.abort()
    await done
  })
})

test('a flush skips the back-off of both lanes', async () => {
  let up = false
  const { clock, outbox, living, run } = setUp(() => (up ? null : answer(503, 'busy', 100_000)))
  outbox.add(report('old'))
  const done = run()
  await clock.advance(1_000)
  outbox.add(report('new'))
  await clock.advance(1_000)
  up = true
  const limit = new AbortController()
  await outbox.flush(limit.signal)
  expect(outbox.size()).toBe(0)
  living.abort()
  await done
})
