import { describe, expect, test } from 'vitest'
import { JobError } from '../../src/host/errors.ts'
import type { SecretReference } from '../../src/protocol/integration.ts'
import { createKeyCache, KEEP_MS, MOST_KEYS } from '../../src/secrets/key-cache.ts'
import type { LoginKey } from '../../src/secrets/private-key.ts'
import { secretOf } from '../../src/secrets/secret.ts'
import { fakeClock } from '../connector/fake-clock.ts'

const file = (path: string): SecretReference => ({ type: 'file', path })
const material = (version: string) => ({ privateKey: secretOf('key'), version })

const setUp = (fail?: Error) => {
  const clock = fakeClock()
  let opened = 0
  const cache = createKeyCache(clock, () => {
    opened++
    if (fail) throw fail
    return { fingerprint: `SHA256:${opened}` } as LoginKey
  })
  return { clock, cache, count: () => opened }
}

describe('the cache of opened keys', () => {
  test('opens one version of a secret once', () => {
    const { cache, count } = setUp()
    const first = cache.open(file('/a'), material('1'))
    expect(cache.open(file('/a'), material('1'))).toBe(first)
    expect(count()).toBe(1)
  })

  test('knows a reference in whatever order its members come', () => {
    const { cache, count } = setUp()
    cache.open({ type: 'aws', region: 'r', secretId: 's' }, material('1'))
    cache.open({ secretId: 's', region: 'r', type: 'aws' }, material('1'))
    expect(count()).toBe(1)
  })

  test('opens another version anew, and forgets the one before', () => {
    const { clock, cache, count } = setUp()
    const first = cache.open(file('/a'), material('1'))
    expect(cache.open(file('/a'), material('2'))).not.toBe(first)
    expect(clock.sleepers()).toBe(1)
    cache.open(file('/a'), material('1'))
    expect(count()).toBe(3)
  })

  test('never takes the same version of another secret for it', () => {
    const { cache, count } = setUp()
    for (const reference of [file('/a'), file('/b')]) cache.open(reference, material('1'))
    expect(count()).toBe(2)
  })

  test('keeps nothing for longer than its time, used or not', async () => {
    const { clock, cache, count } = setUp()
    cache.open(file('/a'), material('1'))
    await clock.advance(KEEP_MS - 1)
    cache.open(file('/a'), material('1'))
    expect(count()).toBe(1)
    await clock.advance(1)
    expect(clock.sleepers()).toBe(0)
    cache.open(file('/a'), material('1'))
    expect(count()).toBe(2)
  })

  test('keeps no more than its number, and drops the oldest first', () => {
    const { clock, cache, count } = setUp()
    for (let n = 0; n <= MOST_KEYS; n++) cache.open(file(`/${n}`), material('1'))
    expect(clock.sleepers()).toBe(MOST_KEYS)
    cache.open(file('/1'), material('1'))
    expect(count()).toBe(MOST_KEYS + 1)
    cache.open(file('/0'), material('1'))
    expect(count()).toBe(MOST_KEYS + 2)
  })

  test('remembers that a key cannot be opened, until the secret changes', () => {
    const { cache, count } = setUp(new JobError('secret_malformed', 'the passphrase does not open the private key'))
    for (let n = 0; n < 3; n++) expect(() => cache.open(file('/a'), material('1'))).toThrow('passphrase')
    expect(count()).toBe(1)
    expect(() => cache.open(file('/a'), material('2'))).toThrow('passphrase')
    expect(count()).toBe(2)
  })

  test('does not remember a defect', () => {
    const { cache, count } = setUp(new TypeError('x'))
    for (let n = 0; n < 2; n++) expect(() => cache.open(file('/a'), material('1'))).toThrow(TypeError)
    expect(count()).toBe(2)
  })

  test('holds nothing, and no timer, once disposed of', () => {
    const { clock, cache, count } = setUp()
    cache.open(file('/a'), material('1'))
    cache.dispose()
    expect(clock.sleepers()).toBe(0)
    cache.open(file('/a'), material('1'))
    expect(count()).toBe(2)
  })
})
