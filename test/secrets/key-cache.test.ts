import { describe, expect, test } from 'vitest'
import { JobError } from '../../src/host/errors.ts'
import type { SecretReference } from '../../src/protocol/integration.ts'
import { createKeyCache, KEEP_MS, type KeySource, MOST_KEYS } from '../../src/secrets/key-cache.ts'
import type { LoginKey } from '../../src/secrets/private-key.ts'
import { secretOf } from '../../src/secrets/secret.ts'
import { fakeClock } from '../connector/fake-clock.ts'

const file = (path: string): SecretReference => ({ type: 'file', path })
const material = (version: string) => ({ privateKey: secretOf('key'), version })

const setUp = (fail?: Error) => {
  const clock = fakeClock()
  let opened = 0
  const source: KeySource = {
    open: async () => {
      opened++
      if (fail) throw fail
      return { fingerprint: `SHA256:${opened}` } as LoginKey
    },
    dispose: () => undefined,
  }
  return { clock, cache: createKeyCache(clock, source), count: () => opened }
}

/** Opens when the test says so. */
const setUpSlow = () => {
  const clock = fakeClock()
  const openings: PromiseWithResolvers<LoginKey>[] = []
  const open = (): Promise<LoginKey> => {
    const opening = Promise.withResolvers<LoginKey>()
    openings.push(opening)
    return opening.promise
  }
  return { clock, cache: createKeyCache(clock, { open, dispose: () => undefined }), openings }
}
const KEY = { fingerprint: 'SHA256:x' } as LoginKey

describe('the cache of opened keys', () => {
  test('opens one version of a secret once', async () => {
    const { cache, count } = setUp()
    const first = await cache.open(file('/a'), material('1'))
    expect(await cache.open(file('/a'), material('1'))).toBe(first)
    expect(count()).toBe(1)
  })

  test('knows a reference in whatever order its members come', async () => {
    const { cache, count } = setUp()
    await cache.open({ type: 'aws', region: 'r', secretId: 's' }, material('1'))
    await cache.open({ secretId: 's', region: 'r', type: 'aws' }, material('1'))
    expect(count()).toBe(1)
  })

  test('opens another version anew, and forgets the one before', async () => {
    const { clock, cache, count } = setUp()
    const first = await cache.open(file('/a'), material('1'))
    expect(await cache.open(file('/a'), material('2'))).not.toBe(first)
    expect(clock.sleepers()).toBe(1)
    await cache.open(file('/a'), material('1'))
    expect(count()).toBe(3)
  })

  test('never takes the same version of another secret for it', async () => {
    const { cache, count } = setUp()
    for (const reference of [file('/a'), file('/b')]) await cache.open(reference, material('1'))
    expect(count()).toBe(2)
  })

  test('keeps nothing for longer than its time, used or not', async () => {
    const { clock, cache, count } = setUp()
    await cache.open(file('/a'), material('1'))
    await clock.advance(KEEP_MS - 1)
    await cache.open(file('/a'), material('1'))
    expect(count()).toBe(1)
    await clock.advance(1)
    expect(clock.sleepers()).toBe(0)
    await cache.open(file('/a'), material('1'))
    expect(count()).toBe(2)
  })

  test('keeps no more than its number, and drops the oldest first', async () => {
    const { clock, cache, count } = setUp()
    for (let n = 0; n <= MOST_KEYS; n++) await cache.open(file(`/${n}`), material('1'))
    expect(clock.sleepers()).toBe(MOST_KEYS)
    await cache.open(file('/1'), material('1'))
    expect(count()).toBe(MOST_KEYS + 1)
    await cache.open(file('/0'), material('1'))
    expect(count()).toBe(MOST_KEYS + 2)
  })

  test('remembers that a key cannot be opened, until the secret changes', async () => {
    const { cache, count } = setUp(new JobError('secret_malformed', 'the passphrase does not open the private key'))
    for (let n = 0; n < 3; n++) await expect(cache.open(file('/a'), material('1'))).rejects.toThrow('passphrase')
    expect(count()).toBe(1)
    await expect(cache.open(file('/a'), material('2'))).rejects.toThrow('passphrase')
    expect(count()).toBe(2)
  })

  test.each([
    new TypeError('a defect'),
    new JobError('internal_error', 'the worker died'),
    new JobError('cancelled', 'the connector is ending'),
  ])('does not remember what is not the fault of the secret: %s', async (error) => {
    const { clock, cache, count } = setUp(error)
    for (let n = 0; n < 2; n++) await expect(cache.open(file('/a'), material('1'))).rejects.toBe(error)
    expect(count()).toBe(2)
    expect(clock.sleepers()).toBe(0)
  })

  test('holds nothing, and no timer, once disposed of', async () => {
    const { clock, cache, count } = setUp()
    await cache.open(file('/a'), material('1'))
    cache.dispose()
    expect(clock.sleepers()).toBe(0)
    await cache.open(file('/a'), material('1'))
    expect(count()).toBe(2)
    expect(clock.sleepers()).toBe(0)
  })

  test('disposes of its source', () => {
    let disposed = 0
    createKeyCache(fakeClock(), { open: () => Promise.reject(new Error('x')), dispose: () => disposed++ }).dispose()
    expect(disposed).toBe(1)
  })
})

describe('a key that takes its time', () => {
  test('is opened once for all who want it meanwhile', async () => {
    const { cache, openings } = setUpSlow()
    const all = [1, 2, 3].map(() => cache.open(file('/a'), material('1')))
    expect(openings).toHaveLength(1)
    openings[0]?.resolve(KEY)
    expect(await Promise.all(all)).toEqual([KEY, KEY, KEY])
  })

  test('fails once for all who want it meanwhile', async () => {
    const { cache, openings } = setUpSlow()
    const all = [1, 2].map(() => cache.open(file('/a'), material('1')))
    openings[0]?.reject(new JobError('secret_malformed', 'no key'))
    expect(await Promise.allSettled(all)).toMatchObject([{ status: 'rejected' }, { status: 'rejected' }])
    await expect(cache.open(file('/a'), material('1'))).rejects.toThrow('no key')
    expect(openings).toHaveLength(1)
  })

  test('does not hold up another secret, nor another version', async () => {
    const { cache, openings } = setUpSlow()
    const first = cache.open(file('/a'), material('1'))
    const others = [cache.open(file('/b'), material('1')), cache.open(file('/a'), material('2'))]
    expect(openings).toHaveLength(3)
    for (const opening of openings.slice(1)) opening.resolve(KEY)
    expect(await Promise.all(others)).toEqual([KEY, KEY])
    openings[0]?.resolve(KEY)
    expect(await first).toBe(KEY)
  })

  test('is waited for no longer by a job that is called off, and still by the others', async () => {
    const { cache, openings } = setUpSlow()
    const calledOff = new AbortController()
    const first = cache.open(file('/a'), material('1'), calledOff.signal)
    const second = cache.open(file('/a'), material('1'), new AbortController().signal)
    calledOff.abort()
    await expect(first).rejects.toMatchObject({ code: 'cancelled' })
    openings[0]?.resolve(KEY)
    expect(await second).toBe(KEY)
    expect(await cache.open(file('/a'), material('1'))).toBe(KEY)
    expect(openings).toHaveLength(1)
  })

  test('may fail with nobody left to hear of it', async () => {
    const { clock, cache, openings } = setUpSlow()
    const first = cache.open(file('/a'), material('1'), AbortSignal.abort())
    await expect(first).rejects.toMatchObject({ code: 'cancelled' })
    openings[0]?.reject(new TypeError('unheard'))
    await clock.advance(0)
    expect(clock.sleepers()).toBe(0)
  })

  test('is kept from when it was open, not from when it was asked for', async () => {
    const { clock, cache, openings } = setUpSlow()
    const first = cache.open(file('/a'), material('1'))
    await clock.advance(KEEP_MS)
    openings[0]?.resolve(KEY)
    await first
    await clock.advance(KEEP_MS - 1)
    await cache.open(file('/a'), material('1'))
    expect(openings).toHaveLength(1)
  })

  test('is not kept when the connector ended meanwhile', async () => {
    const { clock, cache, openings } = setUpSlow()
    const first = cache.open(file('/a'), material('1'))
    cache.dispose()
    openings[0]?.resolve(KEY)
    expect(await first).toBe(KEY)
    expect(clock.sleepers()).toBe(0)
  })
})
