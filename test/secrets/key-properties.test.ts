import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { JobError } from '../../src/host/errors.ts'
import { systemClock } from '../../src/observability/clock.ts'
import { wireReader } from '../../src/protocol/ssh-wire.ts'
import type { FoundKey } from '../../src/secrets/key-armour.ts'
import { createKeyOpener, type KeyOpener } from '../../src/secrets/key-opener.ts'
import { OPENSSH_MAGIC } from '../../src/secrets/key-parts.ts'
import {
  fileOf,
  inThisThread,
  type KnownKey,
  keyFile,
  makeKey,
  open,
  PASSPHRASE,
  puttyKeys,
  signs,
  TYPES,
} from './login-keys.ts'

// Whatever is stored: a key that works, or a JobError that says nothing of it; soon, and without harm to the process.
// Anything thrown elsewhere, an unhandled rejection say, fails the run by itself.

const opener = createKeyOpener(systemClock, { deadlineMs: 1500 })
afterAll(() => opener.dispose())

/** A flipped bit can ask for two billion rounds of bcrypt, and only a worker gets rid of that. */
const askedRounds = ({ format, bytes }: FoundKey): number => {
  if (format !== 'openssh') return 0
  const file = wireReader(bytes.subarray(OPENSSH_MAGIC.length))
  const [, , options] = [file.bytes(), file.bytes(), wireReader(file.bytes())]
  try {
    options.bytes()
    return options.uint32()
  } catch {
    return 0
  }
}

/** In this thread for speed, where that is bounded. */
const quickOpener: Pick<KeyOpener, 'open'> = {
  open: (key, passphrase) => (askedRounds(key) > 16 ? opener : inThisThread).open(key, passphrase),
}

interface Case extends KnownKey {
  readonly name: string
}
const cases: Case[] = []
/** Drawn by number: the properties are written down before there are keys. */
const anyCase = fc.nat().map((number) => {
  const found = cases[number % cases.length]
  if (found === undefined) throw new Error('no keys')
  return found
})

beforeAll(() => {
  for (const type of TYPES) {
    makeKey(type)
    const forms = type === 'ed25519' ? ['RFC4716'] : ['RFC4716', 'PEM', 'PKCS8']
    for (const form of forms) {
      cases.push({ name: `${type} ${form}`, ...keyFile(type, `p ${type} ${form}`, '-N', '', '-m', form) })
      const encrypted = keyFile(type, `p ${type} ${form} enc`, '-a', '1', '-N', PASSPHRASE, '-m', form)
      cases.push({ name: `${type} ${form} encrypted`, ...encrypted })
    }
  }
  for (const cipher of ['aes256-gcm@openssh.com', 'chacha20-poly1305@openssh.com']) {
    const key = keyFile('ed25519', `p ${cipher}`, '-a', '1', '-N', PASSPHRASE, '-Z', cipher)
    cases.push({ name: cipher, ...key })
  }
  cases.push(...puttyKeys().map(([name, key]) => ({ name, ...key })))
  expect(readFileSync(fileOf('rsa'), 'utf8')).toContain('BEGIN OPENSSH')
}, 60_000)

/** Words that every key file has, and that an error may say. */
const WORDS =
  /PuTTY-User-Key-File|(?:BEGIN|END) (?:OPENSSH |RSA |EC |DSA |ENCRYPTED |SSH2 ENCRYPTED )?(?:PRIVATE|PUBLIC) KEY(?: BLOCK)?|Proc-Type: 4,ENCRYPTED/g

const RUN = 16
/** Every 16 characters in a row that the stored text has, tried in what an error says. */
const leaks = (error: JobError, stored: string): string | undefined => {
  const said = `${error.message}\n${error.hint}\n${String(error.cause ?? '')}`
  const secret = stored.replaceAll(WORDS, '\n')
  for (let at = 0; at + RUN <= said.length; at++) {
    const run = said.slice(at, at + RUN)
    if (secret.includes(run)) return run
  }
  return undefined
}

const SOON_MS = 6000

/** `null` when it was opened. */
const check = async (stored: string, expected?: KnownKey): Promise<JobError | null> => {
  const start = performance.now()
  try {
    const key = await open(stored, PASSPHRASE, quickOpener)
    if (expected) expect(signs(key, expected.verifier)).toBe(true)
    return null
  } catch (error) {
    if (!(error instanceof JobError)) throw error
    expect(error.code).toBe('secret_malformed')
    // Of a damaged key the words are damaged as well, and they are no secret.
    expect(leaks(error, expected?.text ?? stored)).toBeUndefined()
    return error
  } finally {
    expect(performance.now() - start).toBeLessThan(SOON_MS)
  }
}

const SETTINGS = { numRuns: 400 }

test('the measure of leaks finds one', () => {
  expect(leaks(new JobError('secret_malformed', 'see abcdefghijklmnop'), '-abcdefghijklmnop-')).toBe('abcdefghijklmnop')
})

test('any text', async () => {
  const pieces = fc.oneof(
    fc.base64String({ minLength: 8, maxLength: 300 }),
    fc.string({ minLength: 8, maxLength: 300, unit: 'binary' }),
    fc.constantFrom(
      ...['OPENSSH ', 'RSA ', 'EC ', 'ENCRYPTED ', '', 'DSA ', 'XYZ '].flatMap((word) => [
        `-----BEGIN ${word}PRIVATE KEY-----\n`,
        `\n-----END ${word}PRIVATE KEY-----\n`,
      ]),
      'PuTTY-User-Key-File-3: ssh-rsa\nEncryption: aes256-cbc\nComment: x\nPublic-Lines: 1\n',
      'Key-Derivation: Argon2id\nArgon2-Memory: 8192\nArgon2-Passes: 2\nArgon2-Parallelism: 1\nArgon2-Salt: 00\n',
      'Private-Lines: 1\n',
      'Private-MAC: 00\n',
      'Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00000000000000000000000000000000\n\n',
      'ssh-rsa AAAA',
      '{"kty":',
    ),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(pieces, { maxLength: 8 }), async (parts) => {
      expect(await check(parts.join(''))).not.toBeNull()
    }),
    SETTINGS,
  )
})

/** Bytes that begin like a key in DER or in OpenSSH's format, with any lengths and numbers after that. */
const almostKeys = fc
  .tuple(
    fc.constantFrom('30820122', '3082012202010030', '308002', '30', '6f70656e7373682d6b65792d763100', '3084ffffffff'),
    fc.uint8Array({ minLength: 0, maxLength: 400 }),
  )
  .map(([begin, rest]) => Buffer.concat([Buffer.from(begin, 'hex'), rest]))

test('any bytes', async () => {
  const bytes = fc.oneof(fc.uint8Array({ maxLength: 600 }), almostKeys)
  await fc.assert(
    fc.asyncProperty(bytes, fc.integer({ min: 1, max: 4 }), async (content, layers) => {
      let stored = Buffer.from(content).toString('base64')
      for (let layer = 1; layer < layers; layer++) stored = Buffer.from(stored).toString('base64')
      expect(await check(stored)).not.toBeNull()
    }),
    SETTINGS,
  )
})

type Damage = (text: string) => string
/** As a share of the whole. Not `fc.double`: nearly all of its numbers are next to nothing. */
const place = fc.nat({ max: 9999 }).map((number) => number / 10_000)
const at = (text: string, share: number): number => Math.floor(share * text.length)

const otherCharacter: fc.Arbitrary<Damage> = fc
  .tuple(place, fc.constantFrom(...'AZaz09+/=- \n\\"\0é'))
  .map(([share, character]) => (text) => {
    const index = at(text, share)
    return text.slice(0, index) + character + text.slice(index + 1)
  })
const cut: fc.Arbitrary<Damage> = place.map((share) => (text) => text.slice(0, at(text, share)))
const cutFront: fc.Arbitrary<Damage> = place.map((share) => (text) => text.slice(at(text, share)))
const missing: fc.Arbitrary<Damage> = fc.tuple(place, fc.nat({ max: 80 })).map(
  ([share, length]) =>
    (text) =>
      text.slice(0, at(text, share)) + text.slice(at(text, share) + length),
)
const lineTwice: fc.Arbitrary<Damage> = place.map((share) => (text) => {
  const lines = text.split('\n')
  const index = Math.floor(share * lines.length)
  return [...lines.slice(0, index + 1), ...lines.slice(index)].join('\n')
})
const linesSwapped: fc.Arbitrary<Damage> = fc.tuple(place, place).map(([one, other]) => (text) => {
  const lines = text.split('\n')
  const [i, j] = [Math.floor(one * lines.length), Math.floor(other * lines.length)]
  return lines.map((line, index) => (index === i ? lines[j] : index === j ? lines[i] : line)).join('\n')
})
/** In the file itself, behind the base64. */
const bitFlipped: fc.Arbitrary<Damage> = fc.tuple(place, fc.nat({ max: 7 })).map(([share, bit]) => (text) => {
  const bodies = [...text.matchAll(/(?:^[A-Za-z0-9+/=]{2,}\n)+/gm)]
  const body = bodies.at(-1)?.[0]
  if (body === undefined) return text
  const bytes = Buffer.from(body, 'base64')
  const index = Math.floor(share * bytes.length)
  bytes.writeUInt8((bytes.at(index) ?? 0) ^ (1 << bit), index)
  return text.replace(body, `${bytes.toString('base64').replace(/.{64}/g, '$&\n')}\n`)
})
const damage = fc.oneof(otherCharacter, cut, cutFront, missing, lineTwice, linesSwapped, bitFlipped)

test('a damaged key works, as the same key, or is refused', async () => {
  let [opened, refused] = [0, 0]
  await fc.assert(
    fc.asyncProperty(anyCase, fc.array(damage, { minLength: 1, maxLength: 3 }), async (known, damages) => {
      const stored = damages.reduce((text, change) => change(text), known.text)
      if ((await check(stored, known)) === null) opened++
      else refused++
    }),
    { numRuns: 1500 },
  )
  // Both happen, or nothing was tested.
  expect(opened).toBeGreaterThan(20)
  expect(refused).toBeGreaterThan(200)
}, 120_000)

test('any passphrase but the right one is refused', async () => {
  await fc.assert(
    fc.asyncProperty(anyCase, fc.string({ minLength: 1, unit: 'binary' }), async (known, passphrase) => {
      fc.pre(passphrase !== PASSPHRASE && /encrypted|@openssh/.test(known.name))
      const error = await open(known.text, passphrase).then(
        () => null,
        (reason: unknown) => reason,
      )
      expect(error).toMatchObject({ code: 'secret_malformed', message: expect.stringContaining('does not open') })
    }),
    { numRuns: 200 },
  )
})

test('a damaged key in the worker is refused there and leaves nothing behind', async () => {
  await fc.assert(
    fc.asyncProperty(anyCase, bitFlipped, async (known, change) => {
      fc.pre(/encrypted|@openssh/.test(known.name))
      const error = await open(change(known.text), PASSPHRASE, opener).then(
        () => null,
        (reason: unknown) => reason,
      )
      if (error !== null) expect(error).toMatchObject({ code: 'secret_malformed' })
    }),
    { numRuns: 40 },
  )
}, 60_000)

test('a text of the largest size is refused soon, whatever it repeats', async () => {
  const repeated = [
    '-',
    '-----BEGIN A PRIVATE KEY-----',
    '-----END',
    '\\',
    '\\\\n',
    ' ',
    '\r',
    '=',
    'A',
    '0',
    'MA==',
    'Public-Lines:',
    'PuTTY-User-Key-File-3: x\n',
    'Proc-Type: 4,ENCRYPTED ',
    'DEK-Info: ',
    '{"kty"',
    'ssh-',
    '\uFEFF',
    'MIIC',
  ]
  for (const text of repeated) {
    const stored = text.repeat(Math.floor(65_536 / text.length))
    const start = performance.now()
    await check(stored)
    await check(Buffer.from(stored).subarray(0, 49_000).toString('base64'))
    expect([text, performance.now() - start < 500]).toEqual([text, true])
  }
})
