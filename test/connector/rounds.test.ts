import { describe, expect, test } from 'vitest'
import { type ApiClient, ApiError } from '../../src/connector/api-client.ts'
import { claimLoop } from '../../src/connector/claim.ts'
import { createLeases } from '../../src/connector/leases.ts'
import { createOutage } from '../../src/connector/outage.ts'
import { createRegistration } from '../../src/connector/register.ts'
import { renewLoop } from '../../src/connector/renew.ts'
import { createSkew } from '../../src/connector/skew.ts'
import { createSlots } from '../../src/connector/slots.ts'
import { createWakeup } from '../../src/connector/wakeup.ts'
import { createHealth } from '../../src/observability/health.ts'
import { createLogger } from '../../src/observability/log.ts'
import { DEFAULT_KNOBS, type Knobs } from '../../src/protocol/calls.ts'
import { fakeClock } from './fake-clock.ts'
import { REGISTER } from './setup.ts'

// The claim and the renew loop by themselves, on a clock that the test moves: how often they ask, and what they learn.

type Setting = {
  knobs?: Partial<Knobs>
  /** How long the control plane takes, milliseconds. */
  takes?: number
  claimFails?: ApiError
  staleAfterMs?: number
}

const setUp = ({ knobs = {}, takes = 0, claimFails, staleAfterMs = 120_000 }: Setting) => {
  const inner = fakeClock()
  // What somebody set the wall clock to, over what it was.
  let stepMs = 0
  const clock = { ...inner, now: () => inner.now() + stepMs }
  const log = createLogger('error', { write: () => undefined })
  const counts = { claim: 0, renew: 0 }
  const serverTime = () => new Date(inner.now()).toISOString()
  const api = {
    register: async () => ({
      serverTime: serverTime(),
      protocol: 1,
      controlPlaneId: 'cp_1',
      knobs: { ...DEFAULT_KNOBS, ...knobs },
    }),
    claim: async (_body: unknown, signal: AbortSignal) => {
      counts.claim++
      if (claimFails) throw claimFails
      await clock.sleep(takes, signal)
      return { serverTime: serverTime(), jobs: [] }
    },
    renew: async (_body: unknown, signal: AbortSignal) => {
      counts.renew++
      await clock.sleep(takes, signal)
      return { serverTime: serverTime(), results: [] }
    },
  } as unknown as ApiClient
  const outage = createOutage(clock, log)
  const skew = createSkew(clock, log)
  const registration = createRegistration({
    api,
    clock,
    log,
    outage,
    skew,
    request: REGISTER,
    onRegistered: () => undefined,
  })
  const leases = createLeases(clock)
  const health = createHealth({ clock, staleAfterMs: () => staleAfterMs, isClockSane: skew.isSane })
  const calls = { api, clock, log, outage, registration, skew, leases, instanceId: 'instance-1', random: () => 1 }
  const living = new AbortController()
  return {
    clock,
    counts,
    health,
    skew,
    trueTime: inner.now,
    stepClock: (ms: number) => {
      stepMs += ms
    },
    claim: () => claimLoop({ ...calls, slots: createSlots(1, clock), health, start: () => undefined }, living.signal),
    renew: async () => {
      await registration.ensure(living.signal)
      await renewLoop({ ...calls, wakeup: createWakeup(clock) }, living.signal)
    },
    end: () => living.abort(),
  }
}

describe('knobs of 0', () => {
  test('do not make the claim loop a hot loop', async () => {
    const { clock, counts, claim, end } = setUp({ knobs: { claimWaitMs: 0 } })
    const done = claim()
    await clock.advance(10_000)
    expect(counts.claim).toBeGreaterThan(30)
    expect(counts.claim).toBeLessThanOrEqual(41)
    end()
    await done
  })

  test('do not make the renew loop a hot loop', async () => {
    const { clock, counts, renew, end } = setUp({ knobs: { renewEveryMs: 0, leaseTtlMs: 0 } })
    const done = renew()
    await clock.advance(10_000)
    expect(counts.renew).toBeGreaterThan(8)
    expect(counts.renew).toBeLessThanOrEqual(11)
    end()
    await done
  })
})

describe('a clock that is set right after the start', () => {
  test.each([
    ['claim', 25_000],
    ['renew', 9_000],
  ] as const)('is believed after the next %s, however long the answer took', async (loop, takes) => {
    const { clock, skew, stepClock, trueTime, end, ...loops } = setUp({ takes })
    stepClock(-600_000)
    const done = loops[loop]()
    await clock.advance(1)
    expect(skew.now()).toBe(trueTime())
    stepClock(600_000)
    expect(skew.now()).toBe(trueTime() + 600_000)
    await clock.advance(60_000)
    expect(skew.now()).toBe(trueTime())
    end()
    await done
  })
})

test('a loop that waits because it was told to is alive', async () => {
  const busy = new ApiError('unreachable', 'HTTP 503 busy', { status: 503, code: 'busy', retryAfterMs: 600_000 })
  const { clock, counts, health, claim, end } = setUp({ claimFails: busy, staleAfterMs: 30_000 })
  const done = claim()
  for (let second = 0; second < 600; second += 5) {
    await clock.advance(5_000)
    expect(health.isAlive()).toBe(true)
  }
  // No more than a connector is held up by one answer.
  expect(counts.claim).toBeGreaterThanOrEqual(5)
  end()
  await done
})
