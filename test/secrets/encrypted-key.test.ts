import { execFileSync } from 'node:child_process'
import { createPrivateKey, randomBytes } from 'node:crypto'
import { beforeAll, describe, expect, test } from 'vitest'
import { openChachaPoly, poly1305 } from '../../src/secrets/chacha-poly.ts'
import {
  BENT,
  expectToBe,
  failure,
  type KnownKey,
  keyFile,
  makeKey,
  open,
  otherText,
  PASSPHRASE,
  puttyKeys,
  puttyText,
  TYPES,
  writeScratch,
} from './login-keys.ts'

// Keys with a passphrase: every format and cipher that ssh-keygen, OpenSSL and PuTTY write.

const CIPHERS = [
  'aes128-cbc',
  'aes128-ctr',
  'aes128-gcm@openssh.com',
  'aes192-cbc',
  'aes192-ctr',
  'aes256-cbc',
  'aes256-ctr',
  'aes256-gcm@openssh.com',
  '3des-cbc',
  'chacha20-poly1305@openssh.com',
]

const keys = new Map<string, KnownKey>()
const key = (name: string): KnownKey => {
  const found = keys.get(name)
  if (found === undefined) throw new Error(`no key ${name}`)
  return found
}

const LEGACY = ['AES-128-CBC', 'AES-256-CBC', 'DES-EDE3-CBC', 'CAMELLIA-256-CBC']
const PBES: readonly (readonly [string, ...string[]])[] = [
  ['PBKDF2', '-v2', 'aes-256-cbc'],
  ['PBKDF2 with many rounds', '-v2', 'aes-256-cbc', '-iter', '100000'],
  ['PBKDF2 and 3DES', '-v2', 'des3'],
  ['scrypt', '-scrypt'],
  ['PBE-SHA1-3DES', '-v1', 'PBE-SHA1-3DES'],
]

const openssl = (...args: string[]): string => execFileSync('openssl', args, { encoding: 'utf8', stdio: 'pipe' })
const pkcs8 = (file: string, ...how: string[]): string =>
  openssl('pkcs8', '-topk8', '-in', file, '-passout', `pass:${PASSPHRASE}`, ...how)
const legacyPem = (file: string, cipher: string, ...how: string[]): string =>
  openssl('rsa', '-in', file, '-traditional', `-${cipher}`, '-passout', `pass:${PASSPHRASE}`, ...how)
const withLegacyProvider = ['-provider', 'legacy', '-provider', 'default']

/** `names` are for tables, which are made before any key is. */
const names = [
  ...TYPES.map((type) => `${type} OpenSSH`),
  ...CIPHERS.map((cipher) => `ed25519 OpenSSH ${cipher}`),
  ...TYPES.filter((type) => type !== 'ed25519').flatMap((type) => [`${type} PEM`, `${type} PKCS#8`]),
  'ed25519 PKCS#8',
  ...LEGACY.map((cipher) => `rsa PEM ${cipher}`),
  ...PBES.map(([name]) => `rsa PKCS#8 ${name}`),
]

const ONE_OF_EACH = ['ed25519 OpenSSH', 'rsa OpenSSH', 'ecdsa256 PEM', 'rsa PEM DES-EDE3-CBC', 'rsa PEM', 'rsa PKCS#8']

beforeAll(() => {
  const openSsh = ['-a', '1', '-N', PASSPHRASE]
  for (const type of TYPES) {
    makeKey(type)
    keys.set(`${type} OpenSSH`, keyFile(type, `${type} openssh`, ...openSsh))
    if (type === 'ed25519') continue
    keys.set(`${type} PEM`, keyFile(type, `${type} pem`, '-m', 'PEM', '-N', PASSPHRASE))
    keys.set(`${type} PKCS#8`, keyFile(type, `${type} pkcs8`, '-m', 'PKCS8', '-N', PASSPHRASE))
  }
  for (const cipher of CIPHERS) {
    keys.set(`ed25519 OpenSSH ${cipher}`, keyFile('ed25519', `ed25519 ${cipher}`, ...openSsh, '-Z', cipher))
  }
  const { text } = keyFile('rsa', 'rsa plain', '-m', 'PEM', '-N', '')
  const plain = writeScratch('rsa.pem', text)
  for (const cipher of LEGACY) {
    keys.set(
      `rsa PEM ${cipher}`,
      otherText('rsa', legacyPem(plain, cipher.replace('DES-EDE3-CBC', 'des3').toLowerCase())),
    )
  }
  for (const [name, ...how] of PBES) keys.set(`rsa PKCS#8 ${name}`, otherText('rsa', pkcs8(plain, ...how)))
  keys.set('rsa PEM DES-CBC', otherText('rsa', legacyPem(plain, 'des', ...withLegacyProvider)))
  keys.set('rsa PKCS#8 PBE-MD5-DES', otherText('rsa', pkcs8(plain, '-v1', 'PBE-MD5-DES', ...withLegacyProvider)))
  keys.set('ed25519 PKCS#8', otherText('ed25519', ed25519Pkcs8()))
}, 60_000)

/** No tool converts an Ed25519 key to PKCS#8 but ours and this. */
const ed25519Pkcs8 = (): string => {
  const { text } = keyFile('ed25519', 'ed25519 plain', '-N', '')
  const bytes = Buffer.from(text.replaceAll(/-----.*-----|\n/g, ''), 'base64')
  const at = bytes.lastIndexOf(Buffer.from([0, 0, 0, 64])) + 4
  const der = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), bytes.subarray(at, at + 32)])
  return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })
    .export({ type: 'pkcs8', format: 'pem', cipher: 'aes-256-cbc', passphrase: PASSPHRASE })
    .toString()
}

const putty = puttyKeys().filter(([name]) => name.includes('encrypted'))

describe('private keys with a passphrase', () => {
  test.each(names)('%s', async (name) => {
    expectToBe(await open(key(name).text, PASSPHRASE), key(name))
  })

  test.each(putty)('%s', async (_file, ppk) => {
    expectToBe(await open(ppk.text, PASSPHRASE), ppk)
  })

  describe.each(Object.entries(BENT))('%s', (_name, bend) => {
    test.each(ONE_OF_EACH)('%s', async (name) => {
      expectToBe(await open(bend(key(name).text), PASSPHRASE), key(name))
    })

    test.each(putty.filter(([name]) => /ed25519-v|rsa-v/.test(name)))('%s', async (_file, ppk) => {
      expectToBe(await open(bend(ppk.text), PASSPHRASE), ppk)
    })
  })

  test('a PEM file that lost every line break', async () => {
    for (const cipher of LEGACY) {
      const { text } = key(`rsa PEM ${cipher}`)
      expectToBe(await open(text.replaceAll('\n', ''), PASSPHRASE), key(`rsa PEM ${cipher}`))
    }
  })

  test('a passphrase that is not ASCII', async () => {
    const passphrase = 'Sésam öffne dich 🗝'
    const known = keyFile('ed25519', 'ed25519 utf8', '-a', '1', '-N', passphrase)
    expectToBe(await open(known.text, passphrase), known)
  })

  const all = (): [string, string][] => [
    ...names.map((name): [string, string] => [name, key(name).text]),
    ...putty.map(([name, ppk]): [string, string] => [name, ppk.text]),
  ]

  test('a wrong passphrase and a missing one are told apart', async () => {
    for (const [name, text] of all()) {
      const wrong = await failure(text, 'wrong')
      expect([name, wrong.code, wrong.message]).toEqual([
        name,
        'secret_malformed',
        expect.stringMatching(/^the passphrase does not open the private key \((?:OpenSSH|PEM|PKCS#8|PuTTY)/),
      ])
      const missing = await failure(text)
      expect([name, missing.code, missing.message]).toEqual([
        name,
        'secret_malformed',
        expect.stringMatching(/^the private key \(.*\) is encrypted and the secret has no passphrase$/),
      ])
      expect(missing.hint).toMatch(
        /Add "passphrase" to the secret, or remove the encryption: (?:ssh-keygen|openssl|puttygen) /,
      )
    }
  })

  /** One in 250 leaves what looks like padding, and then what it encloses is no key. */
  const luckyWrongPassphrase = (text: string): string => {
    for (let n = 0; ; n++) {
      try {
        createPrivateKey({ key: text, passphrase: `wrong ${n}` })
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ERR_OSSL_BAD_DECRYPT') return `wrong ${n}`
      }
    }
  }

  test('a wrong passphrase that decrypts to right padding by chance is still one', async () => {
    const { text } = key('rsa PEM AES-128-CBC')
    expect((await failure(text, luckyWrongPassphrase(text))).message).toContain('the passphrase does not open')
  })

  test.each(['rsa PEM DES-CBC', 'rsa PKCS#8 PBE-MD5-DES'])(
    '%s: a cipher of the past is named as the reason',
    async (name) => {
      const error = await failure(key(name).text, PASSPHRASE)
      expect(error.message).toContain('encrypted with a cipher that is not supported')
      expect(error.hint).toContain('openssl pkey')
    },
  )

  test('an OpenSSH cipher that nobody knows is named as the reason', async () => {
    const bytes = Buffer.from(key('ed25519 OpenSSH aes256-ctr').text.replaceAll(/-----.*-----|\n/g, ''), 'base64')
    bytes.write('zes', bytes.indexOf('aes256-ctr'))
    expect((await failure(bytes.toString('base64'), PASSPHRASE)).message).toContain(
      '(OpenSSH) is encrypted with a cipher',
    )
  })
})

describe('the cost of opening a key, which the file chooses', () => {
  const openSshWithRounds = (rounds: number): string => {
    const bytes = Buffer.from(key('ed25519 OpenSSH').text.replaceAll(/-----.*-----|\n/g, ''), 'base64')
    bytes.writeUInt32BE(rounds, bytes.indexOf('bcrypt') + 6 + 4 + 4 + 16)
    return bytes.toString('base64')
  }

  test('no rounds at all are damage, not a key of zeros', async () => {
    expect((await failure(openSshWithRounds(0), PASSPHRASE)).message).toContain('damaged')
  })

  const edited = (name: string, value: string): string =>
    puttyText('ed25519-v3-encrypted.ppk').replace(new RegExp(`Argon2-${name}: \\d+`), `Argon2-${name}: ${value}`)

  test.each([
    ['Memory', '4194304', 'more than 128 MiB'],
    ['Passes', '1000000', 'more than 8 GiB'],
    ['Parallelism', '9999999', '16 lanes'],
  ])('Argon2 %s', async (name, value, message) => {
    const error = await failure(edited(name, value), PASSPHRASE)
    expect(error).toMatchObject({ code: 'secret_malformed', message: expect.stringContaining(message) })
    expect(error.hint).toContain('puttygen key.ppk')
  })

  test.each(['0', '-1', '1e3', '', '99999999999999999999'])('Argon2 passes of %j', async (value) => {
    expect((await failure(edited('Passes', value), PASSPHRASE)).code).toBe('secret_malformed')
  })

  /** Replaces one INTEGER of the algorithm by another. */
  const recoded = (name: string, from: string, to: string): string => {
    const hex = Buffer.from(key(name).text.replaceAll(/-----.*-----|\n/g, ''), 'base64').toString('hex')
    expect(hex).toContain(from)
    return Buffer.from(hex.replace(from, to), 'hex').toString('base64')
  }

  test('rounds of PBKDF2', async () => {
    const from = '02030186a0'
    expect(
      (await failure(recoded('rsa PKCS#8 PBKDF2 with many rounds', from, '0203ffffff'), PASSPHRASE)).message,
    ).toContain('more than 10000000 rounds')
  })

  test('rounds of the older derivations', async () => {
    const error = await failure(recoded('rsa PKCS#8 PBE-SHA1-3DES', '02020800', '02027fff'), PASSPHRASE)
    expect(error.message).toContain('passphrase does not open')
    const { text } = otherText(
      'rsa',
      pkcs8(
        writeScratch('rsa2.pem', keyFile('rsa', 'rsa p', '-m', 'PEM', '-N', '').text),
        '-v1',
        'PBE-SHA1-3DES',
        '-iter',
        '100000',
      ),
    )
    const hex = Buffer.from(text.replaceAll(/-----.*-----|\n/g, ''), 'base64').toString('hex')
    const costly = Buffer.from(hex.replace('02030186a0', '0203ffffff'), 'hex').toString('base64')
    expect((await failure(costly, PASSPHRASE)).message).toContain('more than 10000000 rounds')
  })

  test('the parameters of scrypt, together', async () => {
    // N = 16384, r = 8, p = 1: each of them alone is harmless.
    const error = await failure(
      recoded('rsa PKCS#8 scrypt', '02024000020108020101', '0202400002017f02017f'),
      PASSPHRASE,
    )
    expect(error.message).toContain('2^24 of scrypt')
  })
})

describe('chacha20-poly1305 of OpenSSH', () => {
  test('Poly1305 of RFC 8439, section 2.5.2', () => {
    const secret = Buffer.from('85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b', 'hex')
    const tag = poly1305(secret, Buffer.from('Cryptographic Forum Research Group'))
    expect(tag.toString('hex')).toBe('a8061dc1305136c6c22b8baf0c0127a9')
  })

  test('Poly1305 where the sum wraps around (RFC 8439, appendix A.3, vectors 7 to 11)', () => {
    const vectors: [string, string, string][] = [
      ['01', `${'f'.repeat(32)}f0${'f'.repeat(30)}11${'0'.repeat(30)}`, '05'],
      ['01', `${'f'.repeat(32)}fbfefefefefefefefefefefefefefefe${'01'.repeat(16)}`, '00'],
      ['02', `fd${'f'.repeat(30)}`, `fa${'f'.repeat(30)}`],
    ]
    for (const [r, message, tag] of vectors) {
      const secret = Buffer.from(r.padEnd(64, '0'), 'hex')
      expect(poly1305(secret, Buffer.from(message, 'hex')).toString('hex')).toBe(tag.padEnd(32, '0'))
    }
  })

  test('a wrong tag opens nothing', () => {
    expect(openChachaPoly(randomBytes(64), randomBytes(64), randomBytes(16))).toBeNull()
    expect(openChachaPoly(randomBytes(64), randomBytes(64), Buffer.alloc(0))).toBeNull()
  })
})
