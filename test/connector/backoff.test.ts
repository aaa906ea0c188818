import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ApiError } from '../../src/connector/api-client.ts'
import { createBackoff } from '../../src/connector/backoff.ts'
import { createOutage } from '../../src/connector/outage.ts'
import { createLogger } from '../../src/observability/log.ts'
import { fakeClock } from './fake-clock.ts'

describe('back-off', () => {
  test('its ceiling doubles from 0.5 s to 30 s and starts over after a success', () => {
    const backoff = createBackoff(() => 1)
    const ceilings = Array.from({ length: 9 }, () => backoff.next())
    expect(ceilings).toEqual([500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000])
    backoff.reset()
    expect(backoff.next()).toBe(500)
  })

  test('is full jitter: anything from nothing to the ceiling', () => {
    fc.assert(
      fc.property(fc.double({ min: 0, max: 0.999, noNaN: true }), fc.nat(200), (fraction, failures) => {
        const backoff = createBackoff(() => fraction)
        for (let n = 0; n < failures; n++) backoff.next()
        const ms = backoff.next()
        expect(ms).toBeGreaterThanOrEqual(0)
        expect(ms).toBeLessThanOrEqual(30_000)
        expect(ms).toBeCloseTo(fraction * Math.min(30_000, 500 * 2 ** Math.min(failures, 16)), 5)
      }),
    )
  })

  test('honours Retry-After, for a minute and a half at most', () => {
    const backoff = createBackoff(() => 0)
    expect(backoff.next({ retryAfterMs: 42_000 })).toBe(42_000)
    expect(backoff.next({ retryAfterMs: 36_000_000 })).toBe(90_000)
  })

  test('goes to the cap at once where waiting less cannot help', () => {
    expect(createBackoff(() => 0).next({ atCap: true })).toBe(22_500)
    expect(createBackoff(() => 1).next({ atCap: true })).toBe(30_000)
  })
})

describe('an outage', () => {
  const setUp = () => {
    const lines: Record<string, unknown>[] = []
    const clock = fakeClock()
    const log = createLogger('debug', { write: (text) => void lines.push(JSON.parse(text) as Record<string, unknown>) })
    return { lines, clock, outage: createOutage(clock, log) }
  }
  const down = new ApiError('unreachable', 'no answer (ECONNREFUSED)', {})

  test('of an hour, in all loops, is two lines', async () => {
    const { lines, clock, outage } = setUp()
    for (let minute = 0; minute < 60; minute++) {
      for (const call of ['claim', 'renew', 'report'] as const) outage.failed(call, down)
      await clock.advance(60_000)
    }
    for (const call of ['claim', 'renew', 'report', 'claim'] as const) outage.succeeded(call)
    expect(lines.map((line) => line['event'])).toEqual(['control_plane_failing', 'control_plane_recovered'])
    expect(lines[1]).toMatchObject({ ms: 3_600_000 })
  })

  test('is over only when every call that failed works again', () => {
    const { lines, outage } = setUp()
    outage.failed('report', down)
    outage.succeeded('claim')
    outage.failed('report', down)
    expect(lines).toHaveLength(1)
    outage.succeeded('report')
    expect(lines).toHaveLength(2)
  })

  test('that becomes another one is said', () => {
    const { lines, outage } = setUp()
    outage.failed('claim', down)
    outage.failed('claim', new ApiError('rejected', 'HTTP 401 invalid_token', { status: 401, code: 'invalid_token' }))
    expect(lines.map((line) => line['code'])).toEqual([null, 'invalid_token'])
  })
})
