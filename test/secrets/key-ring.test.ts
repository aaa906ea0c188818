import { describe, expect, test } from 'vitest'
import { JobError } from '../../src/host/errors.ts'
import { createLogger } from '../../src/observability/log.ts'
import type { SecretReference } from '../../src/protocol/integration.ts'
import {
  createKeyRing,
  HARD_LIMIT_MS,
  type KeySource,
  MOST_SECRETS,
  type SecretKeys,
  TTL_MS,
} from '../../src/secrets/key-ring.ts'
import type { SecretMaterial } from '../../src/secrets/material.ts'
import type { LoginKey } from '../../src/secrets/private-key.ts'
import { secretOf } from '../../src/secrets/secret.ts'
import type { SecretStores } from '../../src/secrets/stores.ts'
import { fakeClock } from '../connector/fake-clock.ts'

const aws = (secretId: string): SecretReference => ({ type: 'aws', region: 'eu-west-1', secretId })
const A = aws('a')

const material = (version: string, next?: string): SecretMaterial => ({
  privateKey: secretOf(`key ${version}`),
  ...(next === undefined ? {} : { next: { privateKey: secretOf(next) } }),
  version,
})

type Answer = SecretMaterial | Error | Promise<SecretMaterial>

/** A store that says what it is told to, and keys that are known by their text. */
const setUp = (askAlways = false) => {
  const clock = fakeClock()
  const lines: Record<string, unknown>[] = []
  const read: SecretMaterial[] = []
  const opened: string[] = []
  let reads = 0
  const desk: { answer: () => Answer; open: (text: string) => Promise<void> } = {
    answer: () => material('1'),
    open: async () => undefined,
  }
  const stores: SecretStores = {
    types: ['aws'],
    askAlways: () => askAlways,
    read: async () => {
      reads++
      const answer = await desk.answer()
      if (answer instanceof Error) throw answer
      read.push(answer)
      return answer
    },
    close: async () => undefined,
  }
  const source: KeySource = {
    open: async ({ privateKey }) => {
      const text = privateKey.reveal()
      opened.push(text)
      await desk.open(text)
      return { fingerprint: text } as LoginKey
    },
    dispose: () => undefined,
  }
  const log = createLogger('info', { write: (text) => void lines.push(JSON.parse(text) as Record<string, unknown>) })
  const ring = createKeyRing({ stores, clock, log, source })
  return { clock, ring, desk, reads: () => reads, opened, lines, read }
}

const textsOf = ({ keys }: SecretKeys): string[] => keys.map(({ fingerprint }) => fingerprint)
const away = () => new JobError('secret_store_unreachable', 'down')
const gone = () => new JobError('secret_not_found', 'gone')

describe('the keys of secrets', () => {
  test('are read and opened once within the time that they are fresh', async () => {
    const { ring, clock, reads, opened } = setUp()
    const first = await ring.get(A)
    await clock.advance(TTL_MS - 1)
    expect(await ring.get(A)).toBe(first)
    expect([reads(), opened]).toEqual([1, ['key 1']])
  })

  test('are asked for again after it, and opened again only if the version is another', async () => {
    const { ring, clock, desk, reads, opened } = setUp()
    const first = await ring.get(A)
    await clock.advance(TTL_MS)
    expect(await ring.get(A)).toBe(first)
    expect([reads(), opened.length]).toEqual([2, 1])
    desk.answer = () => material('2')
    await clock.advance(TTL_MS)
    const second = await ring.get(A)
    expect(textsOf(second)).toEqual(['key 2'])
    expect(second.version).not.toBe(first.version)
  })

  test('are asked for every time where the store is no further than a file', async () => {
    const { ring, reads, opened } = setUp(true)
    await ring.get(A)
    await ring.get(A)
    expect([reads(), opened.length]).toEqual([2, 1])
  })

  test('are known by their reference in whatever order its members come, and by no other', async () => {
    const { ring, reads } = setUp()
    const { version } = await ring.get({ type: 'aws', region: 'r', secretId: 's' })
    expect((await ring.get({ secretId: 's', region: 'r', type: 'aws' })).version).toBe(version)
    expect(reads()).toBe(1)
    expect((await ring.get(aws('b'))).version).not.toBe(version)
  })

  test('leave nothing of the secret behind', async () => {
    const { ring, clock, desk, read } = setUp()
    desk.answer = () => material('1', 'next')
    await ring.get(A)
    await clock.advance(TTL_MS)
    await ring.get(A)
    expect(read).toHaveLength(2)
    for (const one of read) {
      expect(() => one.privateKey.reveal()).toThrow('disposed')
      expect(() => one.next?.privateKey.reveal()).toThrow('disposed')
    }
  })

  test('are read once for all who want them meanwhile, and a job that is called off only stops waiting', async () => {
    const { ring, desk, reads } = setUp()
    const { promise, resolve } = Promise.withResolvers<SecretMaterial>()
    desk.answer = () => promise
    const callOff = new AbortController()
    const all = [ring.get(A, callOff.signal), ring.get(A), ring.get(A)]
    callOff.abort()
    await expect(all[0]).rejects.toMatchObject({ code: 'cancelled' })
    resolve(material('1'))
    expect((await Promise.all(all.slice(1))).map(textsOf)).toEqual([['key 1'], ['key 1']])
    expect(reads()).toBe(1)
  })

  test('that cannot be opened are opened once, asked for every time, and mended at once', async () => {
    const { ring, desk, reads, opened } = setUp()
    desk.open = async () => {
      throw new JobError('secret_malformed', 'the passphrase does not open the private key')
    }
    for (let n = 0; n < 3; n++) await expect(ring.get(A)).rejects.toThrow('passphrase')
    expect([reads(), opened.length]).toEqual([3, 1])
    desk.open = async () => undefined
    desk.answer = () => material('2')
    expect(textsOf(await ring.get(A))).toEqual(['key 2'])
  })

  test.each([new TypeError('a defect'), new JobError('internal_error', 'the worker died')])(
    'are opened again after what is not the fault of the secret: %s',
    async (error) => {
      const { ring, desk, opened } = setUp()
      desk.open = async () => {
        throw error
      }
      for (let n = 0; n < 2; n++) await expect(ring.get(A)).rejects.toBe(error)
      expect(opened).toHaveLength(2)
    },
  )

  test('are forgotten, the one first that was not used for longest', async () => {
    const { ring, reads, clock } = setUp()
    for (let n = 0; n < MOST_SECRETS; n++) await ring.get(aws(`${n}`))
    await ring.get(aws('0'))
    await ring.get(aws('one more'))
    expect([reads(), clock.sleepers()]).toEqual([MOST_SECRETS + 1, MOST_SECRETS])
    await ring.get(aws('0'))
    expect(reads()).toBe(MOST_SECRETS + 1)
    await ring.get(aws('1'))
    expect(reads()).toBe(MOST_SECRETS + 2)
  })

  test('make no room for what cannot be read, however much of that is asked for', async () => {
    const { ring, desk, reads } = setUp()
    await ring.get(A)
    desk.answer = gone
    for (let n = 0; n < 2 * MOST_SECRETS; n++) await expect(ring.get(aws(`made up ${n}`))).rejects.toThrow()
    desk.answer = () => material('1')
    const before = reads()
    await ring.get(A)
    expect(reads()).toBe(before)
  })

  test('are gone, timers and all, when the connector ends, and nothing comes after', async () => {
    const { ring, clock, desk } = setUp()
    await ring.get(A)
    const { promise, resolve } = Promise.withResolvers<SecretMaterial>()
    desk.answer = () => promise
    const late = ring.get(aws('b'))
    ring.dispose()
    const read = material('1')
    resolve(read)
    await expect(late).rejects.toMatchObject({ code: 'cancelled' })
    expect(() => read.privateKey.reveal()).toThrow('disposed')
    expect(clock.sleepers()).toBe(0)
  })
})

describe('a store that is down', () => {
  test('is waited for with the keys that are there, with one warning, until they are too old', async () => {
    const { ring, clock, desk, lines, reads } = setUp()
    const first = await ring.get(A)
    desk.answer = away
    await clock.advance(TTL_MS)
    expect(await ring.get(A)).toBe(first)
    await clock.advance(20_000)
    expect(await ring.get(A)).toBe(first)
    expect(lines.map(({ event, level }) => [event, level])).toEqual([['secret_store_unreachable', 40]])
    expect(reads()).toBe(3)
    await clock.advance(HARD_LIMIT_MS - TTL_MS - 20_000)
    await expect(ring.get(A)).rejects.toMatchObject({ code: 'secret_store_unreachable' })
    expect(clock.sleepers()).toBe(0)
  })

  test('is not asked for every job', async () => {
    const { ring, clock, desk, reads } = setUp()
    await ring.get(A)
    desk.answer = away
    await clock.advance(TTL_MS)
    for (let n = 0; n < 5; n++) await ring.get(A)
    expect(reads()).toBe(2)
    await clock.advance(10_000)
    await ring.get(A)
    expect(reads()).toBe(3)
  })

  test('is told to be back, and what it says then counts', async () => {
    const { ring, clock, desk, lines } = setUp()
    await ring.get(A)
    desk.answer = away
    await clock.advance(TTL_MS)
    await ring.get(A)
    desk.answer = () => material('2')
    await clock.advance(10_000)
    expect(textsOf(await ring.get(A))).toEqual(['key 2'])
    expect(lines.map(({ event }) => event)).toEqual(['secret_store_unreachable', 'secret_store_reachable'])
  })

  test.each(['secret_access_denied', 'secret_not_found', 'secret_malformed'] as const)(
    'is another thing than one that says %s: then the keys are gone at once',
    async (code) => {
      const { ring, clock, desk } = setUp()
      await ring.get(A)
      desk.answer = () => new JobError(code, 'no')
      await clock.advance(TTL_MS)
      await expect(ring.get(A)).rejects.toMatchObject({ code })
      expect(clock.sleepers()).toBe(0)
      desk.answer = away
      await expect(ring.get(A)).rejects.toMatchObject({ code: 'secret_store_unreachable' })
    },
  )

  test('cannot be waited for where nothing was read before', async () => {
    const { ring, desk } = setUp()
    desk.answer = away
    await expect(ring.get(A)).rejects.toMatchObject({ code: 'secret_store_unreachable' })
  })

  test('forgets keys that nobody asks for at their limit, and not before', async () => {
    const { ring, clock } = setUp()
    await ring.get(A)
    await clock.advance(HARD_LIMIT_MS - 1)
    expect(clock.sleepers()).toBe(1)
    await clock.advance(1)
    expect(clock.sleepers()).toBe(0)
  })
})

describe('keys that a server refused', () => {
  test('are asked for again at once, and are new where the version is', async () => {
    const { ring, desk, reads } = setUp()
    const old = await ring.get(A)
    desk.answer = () => material('2')
    expect(textsOf((await ring.renew(A, old)) as SecretKeys)).toEqual(['key 2'])
    expect(textsOf(await ring.get(A))).toEqual(['key 2'])
    expect(reads()).toBe(2)
  })

  test('are nothing new where the version is the same, and are not asked for again within a minute', async () => {
    const { ring, clock, desk, reads } = setUp()
    const old = await ring.get(A)
    expect(await ring.renew(A, old)).toBeNull()
    desk.answer = () => material('2')
    await clock.advance(59_999)
    expect(await ring.renew(A, old)).toBeNull()
    expect(reads()).toBe(2)
    await clock.advance(1)
    expect((await ring.renew(A, old))?.version).not.toBe(old.version)
  })

  test('of a job that began before are told the ones that another job has renewed', async () => {
    const { ring, desk, reads } = setUp()
    const old = await ring.get(A)
    desk.answer = () => material('2')
    const newer = await ring.renew(A, old)
    expect(await ring.renew(A, old)).toBe(newer)
    expect(reads()).toBe(2)
  })

  test.each([away, gone])('are not new where the secret cannot be read', async (error) => {
    const { ring, desk } = setUp()
    const old = await ring.get(A)
    desk.answer = error
    expect(await ring.renew(A, old)).toBeNull()
  })
})

describe('the next key', () => {
  test('comes after the current one', async () => {
    const { ring, desk } = setUp()
    desk.answer = () => material('1', 'next')
    expect(await ring.get(A)).toMatchObject({ nextUnusable: null })
    expect(textsOf(await ring.get(A))).toEqual(['key 1', 'next'])
  })

  test('that is the current one already counts once', async () => {
    const { ring, desk } = setUp()
    desk.answer = () => material('1', 'key 1')
    expect(textsOf(await ring.get(A))).toEqual(['key 1'])
  })

  test('that cannot be opened keeps nobody out, and is told', async () => {
    const { ring, desk } = setUp()
    desk.answer = () => material('1', 'next')
    desk.open = async (text) => {
      if (text === 'next') throw new JobError('secret_malformed', 'damaged')
    }
    const keys = await ring.get(A)
    expect(textsOf(keys)).toEqual(['key 1'])
    expect(keys.nextUnusable).toMatchObject({ code: 'secret_malformed', message: 'damaged' })
  })
})
