import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type ErrorCode, JobError } from '../../src/host/errors.ts'
import {
  type BreakerEvent,
  createBreakers,
  FAILURES_TO_OPEN,
  FIRST_WAIT_MS,
  LONGEST_WAIT_MS,
} from '../../src/ssh/breaker.ts'
import { fakeClock } from '../connector/fake-clock.ts'

const failure = (code: ErrorCode = 'ssh_timeout') => new JobError(code, code)

const setUp = (random = () => 0) => {
  const clock = fakeClock()
  const events: BreakerEvent[] = []
  const breakers = createBreakers({ clock, random, onChange: (event) => void events.push(event) })
  const admitted = (urgent = false): boolean => {
    try {
      breakers.admit('s', {}, urgent)
      return true
    } catch (error) {
      expect(error).toMatchObject({ code: 'circuit_open', retryable: true })
      return false
    }
  }
  const fail = (times: number, code?: ErrorCode) => {
    for (let n = 0; n < times; n++) breakers.failed('s', failure(code))
  }
  return { clock, events, breakers, admitted, fail }
}

describe('a circuit', () => {
  test('opens at the third failure of the transport in a row', () => {
    const { breakers, admitted, fail } = setUp()
    fail(2)
    expect(admitted()).toBe(true)
    breakers.succeeded('s')
    fail(2)
    expect(admitted()).toBe(true)
    fail(1)
    expect(admitted()).toBe(false)
    expect(breakers.list()).toEqual([{ server: 's', state: 'open' }])
  })

  test.each(['ssh_auth_failed', 'host_key_changed', 'sudo_missing', 'cancelled', 'circuit_open'] as const)(
    'is not opened by %s: the server is there, or was not asked',
    (code) => {
      const { admitted, fail } = setUp()
      fail(10, code)
      expect(admitted()).toBe(true)
    },
  )

  test('lets one probe in when it is time, and waits for longer each time that one fails', async () => {
    const { clock, admitted, fail } = setUp()
    fail(FAILURES_TO_OPEN)
    for (const wait of [15_000, 30_000, 60_000, 120_000, 240_000, 480_000, 600_000, 600_000]) {
      await clock.advance(wait - 1)
      expect(admitted()).toBe(false)
      await clock.advance(1)
      expect([admitted(), admitted()]).toEqual([true, false])
      fail(1)
    }
  })

  test('closes at the first success, and begins anew', async () => {
    const { clock, breakers, admitted, fail, events } = setUp()
    fail(FAILURES_TO_OPEN + 4)
    await clock.advance(LONGEST_WAIT_MS)
    expect(admitted()).toBe(true)
    breakers.succeeded('s')
    expect([admitted(), admitted()]).toEqual([true, true])
    fail(FAILURES_TO_OPEN)
    await clock.advance(FIRST_WAIT_MS)
    expect(admitted()).toBe(true)
    expect(events.map(({ state }) => state).slice(-4)).toEqual(['half_open', 'closed', 'open', 'half_open'])
  })

  test('is open for 15 s at most to the end of access', async () => {
    const { clock, admitted, fail } = setUp()
    fail(FAILURES_TO_OPEN + 6)
    await clock.advance(FIRST_WAIT_MS - 1)
    expect(admitted(true)).toBe(false)
    await clock.advance(1)
    expect(admitted()).toBe(false)
    expect(admitted(true)).toBe(true)
  })

  test('forgets a probe of which nobody told how it went', async () => {
    const { clock, admitted, fail } = setUp()
    fail(FAILURES_TO_OPEN)
    await clock.advance(FIRST_WAIT_MS)
    expect(admitted()).toBe(true)
    await clock.advance(60_000)
    expect(admitted()).toBe(true)
  })

  test('a probe that ended for another reason makes room for the next', async () => {
    const { clock, admitted, fail } = setUp()
    fail(FAILURES_TO_OPEN)
    await clock.advance(FIRST_WAIT_MS)
    expect(admitted()).toBe(true)
    fail(1, 'cancelled')
    expect(admitted()).toBe(true)
  })

  test('is forgotten when too many servers have failed since, and never one that fails still', () => {
    const { breakers } = setUp()
    const failAt = (server: string) => {
      for (let n = 0; n < FAILURES_TO_OPEN; n++) breakers.failed(server, failure())
    }
    failAt('once')
    for (let n = 0; n < 20_500; n++) {
      failAt(`gone-${n}`)
      if (n % 1000 === 0) breakers.failed('still', failure())
    }
    expect(breakers.list()).toHaveLength(20_000)
    expect([breakers.state('once'), breakers.state('still')]).toEqual(['closed', 'open'])
  })

  test('never waits for more than ten minutes, nor for less than ten seconds', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: FAILURES_TO_OPEN, max: 200 }),
        fc.double({ min: 0, max: 0.999_999, noNaN: true }),
        (n, random) => {
          const { fail, events } = setUp(() => random)
          fail(n)
          const waits = events.filter(({ state }) => state === 'open').map(({ waitMs }) => waitMs)
          for (const wait of waits) expect(wait >= 10_000 && wait <= LONGEST_WAIT_MS).toBe(true)
        },
      ),
      { numRuns: 100 },
    )
  })
})
