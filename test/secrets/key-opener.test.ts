import { monitorEventLoopDelay } from 'node:perf_hooks'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/observability/clock.ts'
import { createKeyOpener, type KeyOpener, type KeyOpenerOptions } from '../../src/secrets/key-opener.ts'
import { openPrivateKey } from '../../src/secrets/private-key.ts'
import { secretOf } from '../../src/secrets/secret.ts'
import { fakeClock } from '../connector/fake-clock.ts'
import {
  expectToBe,
  failure,
  inThisThread,
  type KnownKey,
  keyFile,
  makeKey,
  open,
  PASSPHRASE,
  puttyKeys,
} from './login-keys.ts'

// The worker thread in which encrypted keys are opened: the real one, and ones that misbehave.

const openers: KeyOpener[] = []
const opener = (options: KeyOpenerOptions = {}, clock = systemClock): KeyOpener => {
  const made = createKeyOpener(clock, options)
  openers.push(made)
  return made
}
afterEach(() => {
  for (const made of openers.splice(0)) made.dispose()
})

const misbehaving = (name: string): { script: URL } => ({ script: new URL(`./workers/${name}.ts`, import.meta.url) })

let openSsh: KnownKey
let pkcs8: KnownKey
/** Takes more than a second on a good machine. */
let slow: KnownKey
beforeAll(() => {
  makeKey('ed25519')
  makeKey('rsa')
  openSsh = keyFile('ed25519', 'opener openssh', '-a', '1', '-N', PASSPHRASE)
  slow = keyFile('ed25519', 'opener slow', '-a', '60', '-N', PASSPHRASE)
  pkcs8 = keyFile('rsa', 'opener pkcs8', '-m', 'PKCS8', '-N', PASSPHRASE)
})

/** Worker threads of this process, seen from outside. */
const workers = (): number => process.getActiveResourcesInfo().filter((name) => name === 'MessagePort').length

/** The same key, asking for so many rounds. */
const withRounds = (text: string, rounds: number): string => {
  const bytes = Buffer.from(text.replaceAll(/-----.*-----|\n/g, ''), 'base64')
  bytes.writeUInt32BE(rounds, bytes.indexOf('bcrypt') + 6 + 4 + 4 + 16)
  return bytes.toString('base64')
}

describe('the worker that opens keys', () => {
  test('opens what has a passphrase, of every format', async () => {
    const [, ppk] = puttyKeys().find(([name]) => name === 'rsa-v3-encrypted.ppk') ?? []
    if (ppk === undefined) throw new Error('no such fixture')
    const used = opener()
    for (const key of [openSsh, pkcs8, ppk]) expectToBe(await open(key.text, PASSPHRASE, used), key)
  })

  test('says the same as without a worker when it cannot', async () => {
    const used = opener()
    for (const [text, passphrase] of [
      [openSsh.text, 'wrong'],
      [pkcs8.text, 'wrong'],
      [openSsh.text.replaceAll('\n', '').replace(/.{8}-----END/, '-----END'), PASSPHRASE],
    ] as const) {
      const [here, there] = [await failure(text, passphrase), await failure(text, passphrase, used)]
      expect(there).toMatchObject({ code: here.code, message: here.message, hint: here.hint })
    }
  })

  test('is not asked about a key in the clear, nor without a passphrase', async () => {
    const never = { open: () => Promise.reject(new Error('asked')) }
    const { text } = keyFile('ed25519', 'opener plain', '-N', '')
    expect((await open(text, PASSPHRASE, never)).type).toBe('ssh-ed25519')
    expect((await failure(openSsh.text, undefined, never)).message).toContain('has no passphrase')
  })

  test('leaves the material to be disposed of at once', async () => {
    const material = { privateKey: secretOf(openSsh.text), passphrase: secretOf(PASSPHRASE) }
    const opening = openPrivateKey(material, opener())
    material.privateKey.dispose()
    material.passphrase.dispose()
    expectToBe(await opening, openSsh)
  })

  test('is gone once it has answered', async () => {
    await open(openSsh.text, PASSPHRASE, opener())
    await expect.poll(workers).toBe(0)
  })

  test.each(['exits', 'throws', 'returns', 'eats'])('that %s is an error of its own', async (name) => {
    const error = await failure(openSsh.text, PASSPHRASE, opener(misbehaving(name)))
    expect(error.code).toBe('internal_error')
    expect(error.message).toBe('the worker that opens private keys ended without an answer')
    expect(`${error.stack}${String(error.cause)}`).not.toContain(PASSPHRASE)
  })

  test('that cannot be started is an error of its own', async () => {
    expect((await failure(openSsh.text, PASSPHRASE, opener(misbehaving('none')))).code).toBe('internal_error')
    const error = await failure(openSsh.text, PASSPHRASE, opener({ script: new URL('http://localhost/x.ts') }))
    expect(error.code).toBe('internal_error')
  })

  test('may do what it likes after its answer', async () => {
    expect((await failure(openSsh.text, PASSPHRASE, opener(misbehaving('rejects')))).message).toBe('answered')
  })

  test('is ended at its deadline, however it spins', async () => {
    const error = await failure(openSsh.text, PASSPHRASE, opener({ ...misbehaving('spins'), deadlineMs: 300 }))
    expect(error).toMatchObject({ code: 'secret_malformed', message: expect.stringContaining('within 300 ms') })
    expect(error.hint).toContain('ssh-keygen -p -a 16')
    await expect.poll(workers).toBe(0)
  })

  test('is ended at its deadline when the file asks for two billion rounds', async () => {
    const error = await failure(withRounds(openSsh.text, 2 ** 31), PASSPHRASE, opener({ deadlineMs: 1000 }))
    expect(error).toMatchObject({ code: 'secret_malformed', message: expect.stringContaining('within 1000 ms') })
    await expect.poll(workers).toBe(0)
  })

  test('there are two at once, and the others follow', async () => {
    const clock = fakeClock()
    const used = opener({ ...misbehaving('spins'), deadlineMs: 1000 }, clock)
    const failures = Promise.all([1, 2, 3, 4, 5].map(() => failure(openSsh.text, PASSPHRASE, used)))
    // Each that runs sleeps until its deadline.
    for (const running of [2, 2, 1]) {
      await expect.poll(() => clock.sleepers()).toBe(running)
      await clock.advance(1000)
    }
    expect((await failures).map(({ code }) => code)).toEqual(Array(5).fill('secret_malformed'))
  })

  test('is not even started once the connector ends', async () => {
    const used = opener({ script: new URL('http://localhost/x.ts') })
    used.dispose()
    expect((await failure(openSsh.text, PASSPHRASE, used)).code).toBe('cancelled')
  })

  test('ends when the connector does, and so do those that wait', async () => {
    const used = opener(misbehaving('spins'))
    const failures = Promise.all([1, 2, 3].map(() => failure(openSsh.text, PASSPHRASE, used)))
    await expect.poll(workers).toBeGreaterThan(0)
    used.dispose()
    expect((await failures).map(({ code }) => code)).toEqual(Array(3).fill('cancelled'))
    expect((await failure(openSsh.text, PASSPHRASE, used)).code).toBe('cancelled')
    await expect.poll(workers).toBe(0)
  })
})

/** How long it took, and the longest that nothing else could run meanwhile, in milliseconds. */
const measure = async (opening: () => Promise<unknown>): Promise<{ took: number; blocked: number }> => {
  const delay = monitorEventLoopDelay({ resolution: 5 })
  const start = performance.now()
  delay.enable()
  await new Promise((resolve) => setTimeout(resolve, 20))
  await opening()
  // The meter notices a block only when its timer comes round again.
  await new Promise((resolve) => setTimeout(resolve, 20))
  delay.disable()
  return { took: performance.now() - start, blocked: delay.max / 1e6 }
}

test('the event loop goes on while a key with many rounds is opened', async () => {
  const here = await measure(() => open(slow.text, PASSPHRASE, inThisThread))
  const there = await measure(() => open(slow.text, PASSPHRASE, opener()))
  expect(here.blocked).toBeGreaterThan(0.7 * here.took)
  expect(there.blocked).toBeLessThan(0.3 * here.blocked)
})
