import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { JobError } from '../../../src/host/errors.ts'
import { systemClock } from '../../../src/observability/clock.ts'
import type { SecretReference } from '../../../src/protocol/integration.ts'
import { disposeMaterial, type SecretMaterial } from '../../../src/secrets/material.ts'
import type { AnySecretStore } from '../../../src/secrets/secret-store.ts'
import { type SecretStores, secretStores } from '../../../src/secrets/stores.ts'

// What every store has to do, whatever it is. A file of tests gives each a counterpart to do it with.

export type Fields = Readonly<Record<string, string>>

export type Counterpart = {
  /** A new store of ours that reads from it. */
  open(): AnySecretStore
  /** Makes the secret, or changes it. */
  put(name: string, fields: Fields): Promise<SecretReference>
  /** A secret that is no JSON object, where the store does not forbid that. */
  putText?(name: string, text: string): Promise<SecretReference>
  readonly missing: SecretReference
  /** What cannot be a name there, or would lead elsewhere. */
  readonly hostile: readonly SecretReference[]
  /** There, and not to be read; `how` is what has to be pasted to mend that. */
  forbidden(): Promise<{ readonly reference: SecretReference; readonly how: RegExp }>
  /** What has reached it so far. */
  requests(): number
  readonly faults?: {
    /** The next ones fail in a way that passes. */
    fail(times: number): void
    throttle(times: number): void
    /** The next one is never answered. */
    hangOnce(): void
    /** All fail, all hang, until `mend`. */
    down(): void
    hang(): void
    mend(): void
  }
  /** A store whose counterpart shows a certificate that nobody vouches for; what it was sent nevertheless. */
  distrusted?(): Promise<{ readonly store: AnySecretStore; sent(): number }>
  stop(): Promise<void>
}

const KEY = 'a2V5LWtleS1rZXk='
const MARK = 'bWFya2VkLXByaXZhdGUta2V5'
const FULL = { base64_private_key: KEY, passphrase: 'p', base64_private_key_next: 'bmV4dA==', other: 'x' }

const asOne = (store: AnySecretStore, deadlineMs = 5000): SecretStores => {
  const stores = secretStores([store], { clock: systemClock, cloud: 'none', deadlineMs })
  onTestFinished(() => stores.close())
  return stores
}

const failureOf = (reading: Promise<SecretMaterial>): Promise<JobError> =>
  reading.then(
    () => Promise.reject(new Error('was read')),
    (error: JobError) => error,
  )

const allOf = ({ message, hint, cause, stack }: JobError): string => `${message}${hint}${String(cause)}${stack}`

/** What a store cannot be asked for, by its nature; a counterpart that leaves out anything else fails as a whole. */
export type Lacking = 'putText' | 'faults' | 'distrusted'

const SOME: readonly Lacking[] = ['putText', 'faults', 'distrusted']

export const conforms = (name: string, start: () => Promise<Counterpart>, lacking: readonly Lacking[] = []): void => {
  const testWith = (part: Lacking, title: string, run: () => Promise<void>): void => {
    if (!lacking.includes(part)) test(title, run)
  }

  describe(`the store ${name}`, () => {
    let there: Counterpart
    beforeAll(async () => {
      there = await start()
      expect(SOME.filter((part) => there[part] === undefined)).toEqual(SOME.filter((part) => lacking.includes(part)))
    })
    afterAll(() => there?.stop())

    const part = <P extends Lacking>(name: P): NonNullable<Counterpart[P]> => {
      const found = there[name]
      if (found === undefined) throw new Error(`the counterpart has no ${name}`)
      return found
    }

    const read = (reference: SecretReference, deadlineMs?: number): Promise<SecretMaterial> =>
      asOne(there.open(), deadlineMs).read(reference)

    test('gives key, passphrase and next key', async () => {
      const { privateKey, passphrase, next } = await read(await there.put('full', FULL))
      expect([privateKey.reveal(), passphrase?.reveal()]).toEqual([KEY, 'p'])
      expect([next?.privateKey.reveal(), next?.passphrase?.reveal()]).toEqual(['bmV4dA==', 'p'])
    })

    test('gives a version that stays while the content does, and changes with it, and says nothing about it', async () => {
      const reference = await there.put('changing', { base64_private_key: MARK })
      const stores = asOne(there.open())
      const first = await stores.read(reference)
      expect((await stores.read(reference)).version).toBe(first.version)
      await there.put('changing', { base64_private_key: KEY })
      const second = await stores.read(reference)
      expect(second.version).not.toBe(first.version)
      expect(second.privateKey.reveal()).toBe(KEY)
      expect(first.version).not.toContain(MARK)
      for (const material of [first, second]) disposeMaterial(material)
    })

    test('says that a secret is not there, and how to make it', async () => {
      const error = await failureOf(read(there.missing))
      expect(error.code).toBe('secret_not_found')
      expect(error.hint).toContain('base64_private_key')
    })

    test('says that it may not be read, and what to do about it', async () => {
      const { reference, how } = await there.forbidden()
      const error = await failureOf(read(reference))
      expect(error.code).toBe('secret_access_denied')
      expect(error.hint).toMatch(how)
    })

    test('says that the key is missing, and never what is there', async () => {
      const error = await failureOf(read(await there.put('other', { private_key: MARK })))
      expect(error).toMatchObject({ code: 'secret_malformed', message: expect.stringContaining('base64_private_key') })
      expect(allOf(error)).not.toContain(MARK)
    })

    testWith('putText', 'says what kind of thing is there instead of JSON, and never the thing', async () => {
      const text = `-----BEGIN PRIVATE KEY-----\n${MARK}\n-----END PRIVATE KEY-----\n`
      const error = await failureOf(read(await part('putText')('text', text)))
      expect(error).toMatchObject({
        code: 'secret_malformed',
        message: expect.stringContaining('a private key by itself'),
      })
      expect(allOf(error)).not.toContain(MARK)
    })

    test('asks nobody for what cannot be a name, or would lead elsewhere', async () => {
      const before = there.requests()
      for (const reference of there.hostile) {
        const error = await failureOf(read(reference))
        expect(error.code, JSON.stringify(reference)).toMatch(/^secret_(?:not_found|access_denied)$/)
      }
      expect(there.requests()).toBe(before)
    })

    testWith('faults', 'tries again what can pass, also when it is told to slow down', async () => {
      const faults = part('faults')
      onTestFinished(faults.mend)
      const reference = await there.put('full', FULL)
      faults.fail(1)
      expect((await read(reference)).privateKey.reveal()).toBe(KEY)
      faults.throttle(1)
      expect((await read(reference)).privateKey.reveal()).toBe(KEY)
    })

    testWith('faults', 'tries again what is not answered', async () => {
      const faults = part('faults')
      onTestFinished(faults.mend)
      const reference = await there.put('full', FULL)
      faults.hangOnce()
      expect((await read(reference)).privateKey.reveal()).toBe(KEY)
    })

    testWith('faults', 'says that the store is down, in time, and reads again when it is back', async () => {
      const faults = part('faults')
      onTestFinished(faults.mend)
      const reference = await there.put('full', FULL)
      const stores = asOne(there.open())
      faults.down()
      const began = performance.now()
      expect((await failureOf(stores.read(reference))).code).toBe('secret_store_unreachable')
      expect(performance.now() - began).toBeLessThan(6000)
      faults.mend()
      expect((await stores.read(reference)).privateKey.reveal()).toBe(KEY)
    })

    testWith(
      'faults',
      'waits no longer than the deadline, nor than the job, and is none the worse for it',
      async () => {
        const faults = part('faults')
        onTestFinished(faults.mend)
        const reference = await there.put('full', FULL)
        const stores = asOne(there.open(), 1000)
        faults.hang()
        const began = performance.now()
        expect((await failureOf(stores.read(reference))).code).toBe('secret_store_unreachable')
        const callOff = new AbortController()
        const reading = failureOf(stores.read(reference, { signal: callOff.signal }))
        callOff.abort()
        expect((await reading).code).toBe('cancelled')
        expect(performance.now() - began).toBeLessThan(2500)
        faults.mend()
        expect((await stores.read(reference)).privateKey.reveal()).toBe(KEY)
      },
    )

    testWith('distrusted', 'tells nothing to a server that nobody vouches for', async () => {
      const { store, sent } = await part('distrusted')()
      const error = await failureOf(asOne(store).read(await there.put('full', FULL)))
      expect(error.code).toBe('secret_store_unreachable')
      expect(sent()).toBe(0)
    })
  })
}
