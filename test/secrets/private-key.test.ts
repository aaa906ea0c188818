import { execFileSync } from 'node:child_process'
import { generateKeyPairSync } from 'node:crypto'
import { copyFileSync, readFileSync } from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import { JobError } from '../../src/host/errors.ts'
import { parsePrivateKey } from '../../src/secrets/private-key.ts'
import { secretOf } from '../../src/secrets/secret.ts'
import { scratchDirectory } from '../hosts/scratch.ts'

// Keys by the real ssh-keygen, in every format that it and OpenSSL write, bent the way people bend them.

const TYPES = ['ed25519', 'ecdsa256', 'ecdsa384', 'ecdsa521', 'rsa'] as const
type Type = (typeof TYPES)[number]
const FORMATS = ['RFC4716', 'PEM', 'PKCS8'] as const
const PASSPHRASE = 'open sesame'

const directory = scratchDirectory()
const keys = new Map<string, { text: string; publicLine: string; fingerprint: string }>()
const sshKeygen = (...args: string[]): string => execFileSync('ssh-keygen', args, { encoding: 'utf8', stdio: 'pipe' })

const make = (type: Type): string => {
  const file = path.join(directory, type)
  const [, name = type, bits] = /^([a-z]+?)(\d{3})?$/.exec(type === 'ed25519' ? '' : type) ?? []
  sshKeygen('-q', '-t', name, ...(bits ? ['-b', bits] : []), '-N', '', '-C', '', '-f', file)
  return file
}

const keep = (name: string, file: string, publicFile: string): void => {
  const publicLine = readFileSync(publicFile, 'utf8').trim().split(' ').slice(0, 2).join(' ')
  const fingerprint = sshKeygen('-l', '-f', publicFile).split(' ')[1] ?? ''
  keys.set(name, { text: readFileSync(file, 'utf8'), publicLine, fingerprint })
}

const variant = (original: string, name: string, format: string, passphrase: string): void => {
  const file = path.join(directory, name)
  copyFileSync(original, file)
  sshKeygen('-q', '-p', '-a', '1', '-P', '', '-N', passphrase, '-m', format, '-f', file)
  keep(name, file, `${original}.pub`)
}

beforeAll(() => {
  for (const type of TYPES) {
    const file = make(type)
    for (const format of FORMATS) {
      // ssh-keygen writes ed25519 in its own format whatever it is told; PKCS#8 of it is made by OpenSSL below.
      if (type === 'ed25519' && format !== 'RFC4716') continue
      variant(file, `${type} ${format}`, format, '')
      variant(file, `${type} ${format} encrypted`, format, PASSPHRASE)
    }
  }
}, 60_000)

const key = (name: string) => {
  const found = keys.get(name)
  if (found === undefined) throw new Error(`no key ${name}`)
  return found
}

const parse = (text: string, passphrase?: string) =>
  parsePrivateKey({
    privateKey: secretOf(text),
    ...(passphrase === undefined ? {} : { passphrase: secretOf(passphrase) }),
  })

const failure = (text: string, passphrase?: string): JobError => {
  try {
    parse(text, passphrase)
  } catch (error) {
    if (error instanceof JobError) return error
    throw error
  }
  throw new Error('was accepted')
}

const b64 = (text: string): string => Buffer.from(text).toString('base64')
const names = TYPES.flatMap((type) =>
  FORMATS.filter((format) => type !== 'ed25519' || format === 'RFC4716').map((format) => `${type} ${format}`),
)

const BENT: Record<string, (text: string) => string> = {
  'as it is': (text) => text,
  base64: b64,
  'base64 -w 76': (text) => b64(text).replace(/.{76}/g, '$&\n'),
  'base64, CRLF every 64': (text) => b64(text).replace(/.{64}/g, '$&\r\n'),
  'base64 with spaces': (text) => b64(text).replace(/.{60}/g, '$& '),
  'base64 in quotes': (text) => `"${b64(text)}"\n`,
  'base64 twice': (text) => b64(b64(text)),
  'base64 of CRLF': (text) => b64(text.replaceAll('\n', '\r\n')),
  CRLF: (text) => text.replaceAll('\n', '\r\n'),
  'CR only': (text) => text.replaceAll('\n', '\r'),
  'byte order mark': (text) => `\uFEFF${text}`,
  indented: (text) => text.replaceAll(/^/gm, '    '),
  'trailing spaces': (text) => text.replaceAll('\n', '   \n'),
  'literal \\n': (text) => text.replaceAll('\n', '\\n'),
  'newlines turned to spaces': (text) => text.replaceAll('\n', ' '),
  'no line break at the end': (text) => text.trimEnd(),
  'text before and after': (text) => `Bag Attributes\n  friendlyName: x\n${text}\nbye\n`,
  'base64 of UTF-16': (text) => Buffer.from(`\uFEFF${text}`, 'utf16le').toString('base64'),
}

describe('private keys', () => {
  describe.each(Object.entries(BENT))('%s', (_name, bend) => {
    test.each(names)('%s', (name) => {
      const { text, publicLine, fingerprint } = key(name)
      expect(parse(bend(text))).toMatchObject({ publicLine, fingerprint })
    })
  })

  test.each(names)('%s, encrypted: needs its passphrase, and the right one', (name) => {
    const { text, publicLine } = key(`${name} encrypted`)
    expect(parse(b64(text), PASSPHRASE).publicLine).toBe(publicLine)
    expect(parse(text.replaceAll('\n', ' '), PASSPHRASE).publicLine).toBe(publicLine)
    expect(failure(text, 'wrong')).toMatchObject({
      code: 'secret_malformed',
      message: 'the passphrase does not open the private key',
    })
    expect(failure(text).hint).toContain('ssh-keygen -p -m PEM')
  })

  test('Ed25519 in PKCS#8, as OpenSSL writes it', () => {
    const { privateKey } = generateKeyPairSync('ed25519')
    expect(parse(b64(privateKey.export({ type: 'pkcs8', format: 'pem' }).toString())).type).toBe('ssh-ed25519')
  })

  test('an OpenSSH key without its BEGIN and END lines', () => {
    const { text, publicLine } = key('ed25519 RFC4716')
    expect(parse(text.replaceAll(/-----.*-----\n/g, '')).publicLine).toBe(publicLine)
  })
})

describe('what is not a usable private key', () => {
  const PPK = 'PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n'
  const wrong: [string, () => string, string][] = [
    ['a public key', () => key('rsa PEM').publicLine, 'holds a public key'],
    ['a public key in base64', () => b64(`${key('rsa PEM').publicLine} me@here`), 'holds a public key'],
    ['a certificate', () => 'ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1l', 'holds a certificate'],
    [
      'an X.509 certificate',
      () => b64('-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----'),
      'holds a certificate',
    ],
    ['a PuTTY key', () => b64(PPK), 'PuTTY key'],
    ['half a key', () => key('rsa PEM').text.slice(0, 500), 'cut off'],
    ['a damaged body', () => key('rsa PEM').text.replace(/\n.{64}\n/, '\nAAAA\n'), 'cannot be read'],
    ['words', () => 'please ask Dave', 'no private key'],
    ['random base64', () => b64('x'.repeat(500)), 'no private key'],
    ['nothing', () => '\n', 'no private key'],
    [
      'an Ed448 key',
      () => generateKeyPairSync('ed448').privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
      'ed448',
    ],
    [
      'a curve that SSH does not know',
      () =>
        generateKeyPairSync('ec', { namedCurve: 'secp256k1' })
          .privateKey.export({ type: 'pkcs8', format: 'pem' })
          .toString(),
      'cannot be used for SSH',
    ],
  ]
  test.each(wrong)('%s', (_name, text, message) => {
    const error = failure(text())
    expect(error.code).toBe('secret_malformed')
    expect(error.message).toContain(message)
  })

  test('whatever it is, it fails as secret_malformed and is never quoted', () => {
    const pieces = fc.oneof(
      fc.base64String({ minLength: 8 }),
      fc.string({ minLength: 8 }),
      fc.constant('-----BEGIN OPENSSH PRIVATE KEY-----\n'),
      fc.constant('-----END OPENSSH PRIVATE KEY-----\n'),
      fc.constant('-----BEGIN RSA PRIVATE KEY-----\n'),
      fc.constant('-----END RSA PRIVATE KEY-----\n'),
    )
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 5 }), (parts) => {
        const error = failure(parts.join(''), 'passphrase')
        expect(error.code).toBe('secret_malformed')
        for (const part of parts.filter((text) => !text.startsWith('-----') && text.trim().length >= 8)) {
          expect(`${error.message}${error.hint}${String(error.cause)}`).not.toContain(part)
        }
      }),
    )
  })
})
