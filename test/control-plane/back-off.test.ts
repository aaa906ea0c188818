import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { INSPECT_EVERY_MS, nextInspection, someTimeInTheHour } from '../../src/control-plane/access/back-off.ts'

const MINUTE = 60_000

test('five thousand servers that came at once are looked at all over the hour, each once in every hour', () => {
  const came = Date.parse('2026-11-25T12:00:00Z')
  let due = Array.from({ length: 5000 }, () => someTimeInTheHour(randomBytes, came))
  for (let hour = 0; hour < 3; hour++) {
    const minutes = Array.from({ length: 60 }, () => 0)
    for (const at of due) {
      const minute = Math.floor((at - 1 - came - hour * INSPECT_EVERY_MS) / MINUTE)
      minutes[minute] = (minutes[minute] ?? Number.NaN) + 1
    }
    // 83 on average; this is six times the standard deviation.
    expect(Math.max(...minutes)).toBeLessThan(83 + 55)
    expect(minutes).toHaveLength(60)
    due = due.map((at) => nextInspection(randomBytes, at, at))
  }
})

test('what was missed while the control plane was down is not due all at once', () => {
  const now = Date.parse('2026-11-25T12:00:00Z')
  const due = Array.from({ length: 100 }, () => nextInspection(randomBytes, now - 10 * INSPECT_EVERY_MS, now))
  expect(new Set(due.map((at) => Math.floor((at - now) / MINUTE))).size).toBeGreaterThan(25)
  for (const at of due) expect(at > now && at <= now + INSPECT_EVERY_MS).toBe(true)
})
