import { describe, expect, test } from 'vitest'
import { createSkew } from '../../src/connector/skew.ts'
import { createLogger } from '../../src/observability/log.ts'
import { fakeClock } from './fake-clock.ts'

const setUp = () => {
  const clock = fakeClock()
  const lines: { event: string; level: number; skewMs: number }[] = []
  const log = createLogger('debug', { write: (text) => void lines.push(JSON.parse(text)) })
  const skew = createSkew(clock, log)
  const say = (ms: number): void => skew.observe(new Date(clock.now() + ms).toISOString(), clock.monotonic())
  return { clock, skew, say, told: () => lines.map(({ event, level, skewMs }) => [event, level, skewMs]) }
}

describe('the clock of the control plane', () => {
  test('is taken as it was when the answer was made', async () => {
    const { clock, skew } = setUp()
    const at = clock.monotonic()
    const serverTime = new Date(clock.now() + 500).toISOString()
    await clock.advance(1000)
    skew.observe(serverTime, at)
    expect([skew.ms(), skew.now() - clock.now()]).toEqual([500, 500])
  })

  test('is told of when the judgement changes, and not for each second more', () => {
    const { skew, say, told } = setUp()
    for (const ms of [0, 1999, 2001, 30_000, -60_000]) say(ms)
    expect(told()).toEqual([['clock_off', 40, 2001]])
    expect(skew.isSane()).toBe(true)
    for (const ms of [60_001, 90_000, -61_000]) say(ms)
    expect(skew.isSane()).toBe(false)
    for (const ms of [3000, 10]) say(ms)
    expect(skew.isSane()).toBe(true)
    expect(told().slice(1)).toEqual([
      ['clock_wrong', 50, 60_001],
      ['clock_off', 40, 3000],
      ['clock_right', 30, 10],
    ])
  })
})
