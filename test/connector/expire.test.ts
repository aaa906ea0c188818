import { describe, expect, test } from 'vitest'
import type { ExpiryOutcome } from '../../src/connector/executor.ts'
import { expireLoop } from '../../src/connector/expire.ts'
import { NO_JOURNAL } from '../../src/connector/journal.ts'
import { createKnownGrants } from '../../src/connector/known-grants.ts'
import { JobError } from '../../src/host/errors.ts'
import { createLogger } from '../../src/observability/log.ts'
import { KnownGrant, type Report } from '../../src/protocol/calls.ts'
import type { AbsentResult } from '../../src/protocol/results.ts'
import { fakeClock } from './fake-clock.ts'
import { grant, job } from './jobs.ts'

const RESULT: AbsentResult = {
  hostId: 'h_1',
  login: 'dana',
  groupsRemoved: [],
  sessionsEnded: 0,
  processesLeft: 0,
  account: 'locked',
  changed: true,
  assurance: 'observed',
  residue: [],
}
const ENDED: ExpiryOutcome = { outcome: 'ended', result: RESULT }
const failed = (code: 'ssh_unreachable' | 'ledger_lost'): ExpiryOutcome => ({
  outcome: 'failed',
  error: new JobError(code, code),
})

const setUp = (known: readonly KnownGrant[] = []) => {
  const clock = fakeClock()
  const desk = { ready: false, end: (_id: string): ExpiryOutcome => ENDED }
  const ended: { id: string; at: number }[] = []
  const reports: Report[] = []
  const lines: Record<string, unknown>[] = []
  const log = createLogger('info', { write: (text) => void lines.push(JSON.parse(text) as Record<string, unknown>) })
  const grants = createKnownGrants({ clock, journal: { ...NO_JOURNAL, grants: () => known }, random: () => 0.5 })
  const living = new AbortController()
  const loop = expireLoop(
    {
      clock,
      log,
      known: grants,
      skew: { now: clock.now },
      outbox: { add: (report) => void reports.push(report) },
      isReady: () => desk.ready,
      end: async ({ grant: { id } }) => {
        ended.push({ id, at: clock.monotonic() })
        return desk.end(id)
      },
    },
    living.signal,
  )
  const stop = async (): Promise<void> => {
    living.abort()
    await loop
  }
  return { clock, desk, grants, ended, reports, lines, stop }
}

/** That ends so many milliseconds from the fake clock's beginning. */
const knownGrant = (id: string, endsIn: number, generation = 1): KnownGrant => {
  const start = Date.parse('2026-11-22T15:00:00Z')
  const raw = job({ grant: grant({ id, generation, notAfter: new Date(start + endsIn).toISOString() }) })
  return KnownGrant.parse({ ...raw, grant: { ...(raw['grant'] as object), notBefore: '2026-11-22T14:00:00Z' } })
}

describe('the end of a grant by the connector', () => {
  test('comes at its time, the overdue ones first, and is told once', async () => {
    const { clock, ended, reports, grants, stop } = setUp([knownGrant('later', 5000), knownGrant('over', -5000)])
    await clock.advance(0)
    expect(ended).toEqual([{ id: 'over', at: 0 }])
    await clock.advance(4989)
    expect(ended).toHaveLength(1)
    await clock.advance(30)
    expect(ended[1]).toMatchObject({ id: 'later' })
    expect(reports).toMatchObject([
      { grantId: 'over', generation: 1, outcome: 'expired', result: RESULT },
      { grantId: 'later', outcome: 'expired' },
    ])
    expect(grants.size()).toBe(0)
    await stop()
  })

  test('leaves the control plane, where that is there, a moment’s start', async () => {
    const { clock, desk, ended, grants, stop } = setUp()
    desk.ready = true
    grants.learn([knownGrant('one', 5000), knownGrant('other', 5000)], 'applied')
    await clock.advance(6000)
    expect(ended).toEqual([])
    grants.forget('one')
    await clock.advance(1100)
    expect(ended.map(({ id }) => id)).toEqual(['other'])
    await stop()
  })

  test('of what another instance gave comes only when that one had its time', async () => {
    const { clock, ended, grants, stop } = setUp()
    grants.learn([knownGrant('listed', 5000)], 'listed')
    await clock.advance(49_000)
    expect(ended).toEqual([])
    await clock.advance(1100)
    expect(ended).toHaveLength(1)
    await stop()
  })

  test('waits for what the server has recorded, and for an extension that is heard of', async () => {
    const { clock, desk, ended, grants, stop } = setUp()
    desk.end = () => ({ outcome: 'not_due', until: clock.now() + 60_000 })
    grants.learn([knownGrant('longer', 1000)], 'applied')
    await clock.advance(1100)
    expect(ended).toHaveLength(1)
    await clock.advance(50_000)
    expect(ended).toHaveLength(1)
    desk.end = () => ENDED
    grants.learn([knownGrant('longer', 200_000, 2)], 'applied')
    grants.learn([knownGrant('longer', 1000, 1)], 'listed')
    await clock.advance(100_000)
    expect(ended).toHaveLength(1)
    await clock.advance(60_000)
    expect(ended).toHaveLength(2)
    await stop()
  })

  test('is tried for ever where it fails, ever less often, with one line', async () => {
    const { clock, desk, ended, lines, reports, stop } = setUp([knownGrant('stuck', 0)])
    desk.end = () => failed('ssh_unreachable')
    await clock.advance(15_000 * (2 ** 10 - 1))
    expect(ended.length).toBeGreaterThan(8)
    expect(ended.length).toBeLessThan(13)
    expect(lines.map(({ event }) => event)).toEqual(['expiry_failed'])
    desk.end = () => ENDED
    await clock.advance(3_600_000)
    expect(reports).toHaveLength(1)
    await stop()
  })

  test('of an extension keeps nothing of what failed before it, its line and first retry neither', async () => {
    const { clock, desk, ended, lines, grants, stop } = setUp([knownGrant('long', 0)])
    desk.end = () => failed('ssh_unreachable')
    await clock.advance(15_000 * (2 ** 6 - 1))
    grants.learn([knownGrant('long', 2_000_000, 2)], 'applied')
    const before = ended.length
    await clock.advance(1_085_000)
    expect(ended.length - before).toBe(2)
    expect(lines).toMatchObject([{ event: 'expiry_failed' }, { event: 'expiry_failed', retryInMs: 15_000 }])
    await stop()
  })

  test('that an extension has overtaken leaves the extension known', async () => {
    const { clock, desk, ended, reports, grants, stop } = setUp([knownGrant('long', 0)])
    desk.end = () => {
      if (ended.length === 1) grants.learn([knownGrant('long', 50_000, 2)], 'applied')
      return ENDED
    }
    await clock.advance(10_000)
    expect([reports.length, grants.size()]).toEqual([1, 1])
    await clock.advance(45_000)
    expect(reports.map((report) => 'generation' in report && report.generation)).toEqual([1, 2])
    await stop()
  })

  test('that is called off because the connector ends is no failure', async () => {
    const { clock, desk, ended, lines, grants, stop } = setUp([knownGrant('late', 0)])
    let stopping: Promise<void> | null = null
    desk.end = () => {
      stopping = stop()
      return failed('ssh_unreachable')
    }
    await clock.advance(100)
    await stopping
    expect([ended.length, lines.length, grants.size()]).toEqual([1, 0, 1])
  })

  test('is left to a job where the server’s ledger does not know the grant', async () => {
    const { clock, desk, ended, grants, reports, stop } = setUp([knownGrant('lost', 0)])
    desk.end = () => failed('ledger_lost')
    await clock.advance(100_000)
    expect([ended.length, reports.length, grants.size()]).toEqual([1, 0, 0])
    await stop()
  })
})
