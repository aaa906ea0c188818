import { describe, expect, test } from 'vitest'
import type { LoginKey } from '../../src/secrets/private-key.ts'
import { createRefusedKeys, type Offer, type Said, TRIES_AFTER_MS } from '../../src/ssh/refused-keys.ts'
import { fakeClock } from '../connector/fake-clock.ts'

const keys = ['current', 'next'].map((fingerprint) => ({ fingerprint }) as LoginKey)

const setUp = (said: Record<string, Said>) => {
  const clock = fakeClock()
  const refused = createRefusedKeys(clock)
  refused.remember('server', 'v1', new Map(Object.entries(said)))
  const offer = (who: Offer = 'job', version = 'v1'): string[] => {
    try {
      return refused.offerable('server', { version, keys }, {}, who).map(({ fingerprint }) => fingerprint)
    } catch {
      return []
    }
  }
  return { clock, offer }
}

describe('keys that a server refused', () => {
  test('in so many words are offered by no job, by the end of access after a while, and whenever a person asks', async () => {
    const { clock, offer } = setUp({ current: 'refused', next: 'refused' })
    expect([offer(), offer('end_of_access'), offer('person').length, offer('job', 'v2').length]).toEqual([[], [], 2, 2])
    await clock.advance(TRIES_AFTER_MS)
    expect([offer(), offer('end_of_access').length]).toEqual([[], 2])
  })

  test('by hanging up, which may have been trouble of its own, are offered by any job after a while', async () => {
    const { clock, offer } = setUp({ current: 'hung_up', next: 'refused' })
    expect(offer()).toEqual([])
    await clock.advance(TRIES_AFTER_MS - 1)
    expect(offer()).toEqual([])
    await clock.advance(1)
    expect(offer()).toEqual(['current'])
  })
})
