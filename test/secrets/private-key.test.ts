import { createHmac, createPrivateKey, generateKeyPairSync, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { beforeAll, describe, expect, test } from 'vitest'
import { sshString } from '../../src/protocol/ssh-wire.ts'
import {
  BENT,
  BENT_ARMOUR,
  b64,
  expectToBe,
  failure,
  fileOf,
  type KnownKey,
  keyFile,
  makeKey,
  open,
  otherText,
  puttyKeys,
  puttyText,
  TYPES,
} from './login-keys.ts'

// Keys in the clear: every format, bent the way people bend them, and proved to be usable.

const keys = new Map<string, KnownKey>()
const key = (name: string): KnownKey => {
  const found = keys.get(name)
  if (found === undefined) throw new Error(`no key ${name}`)
  return found
}

const SSH_KEYGEN_FORMATS = ['RFC4716', 'PEM', 'PKCS8'] as const
const names = [
  ...TYPES.flatMap((type) => SSH_KEYGEN_FORMATS.map((format) => `${type} ${format}`)).filter(
    // ssh-keygen writes Ed25519 in its own format whatever it is told; node:crypto makes the PKCS#8 of it.
    (name) => name !== 'ed25519 PEM',
  ),
]
const putty = puttyKeys().filter(([name]) => !name.includes('encrypted'))

/** From the seed in the OpenSSH file, by hand: the last 64 bytes before comment and padding. */
const ed25519Pkcs8 = (text: string): string => {
  const bytes = Buffer.from(text.replaceAll(/-----.*-----|\n/g, ''), 'base64')
  const at = bytes.lastIndexOf(Buffer.from([0, 0, 0, 64])) + 4
  const der = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), bytes.subarray(at, at + 32)])
  return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })
    .export({ type: 'pkcs8', format: 'pem' })
    .toString()
}

/** As PuTTY before 0.75 wrote it, whose Ed25519 seeds were numbers. */
const withShortSeed = (ppk: string): string => {
  const blob = (name: string): Buffer =>
    Buffer.from(new RegExp(`${name}-Lines: \\d\n([A-Za-z0-9+/=\n]+)\n`).exec(ppk)?.[1] ?? '', 'base64')
  const secret = blob('Private')
  expect(secret.subarray(-2)).toEqual(Buffer.alloc(2))
  const short = sshString(secret.subarray(4, -2))
  const comment = /Comment: (.*)/.exec(ppk)?.[1] ?? ''
  const covered = ['ssh-ed25519', 'none', comment, blob('Public'), short].map(sshString)
  const mac = createHmac('sha256', '').update(Buffer.concat(covered)).digest('hex')
  return ppk.replace(/Private-Lines[\s\S]*/, `Private-Lines: 1\n${short.toString('base64')}\nPrivate-MAC: ${mac}\n`)
}

beforeAll(() => {
  for (const type of TYPES) {
    makeKey(type)
    for (const format of SSH_KEYGEN_FORMATS) {
      if (type !== 'ed25519' || format === 'RFC4716') {
        keys.set(`${type} ${format}`, keyFile(type, `${type} ${format}`, '-N', '', '-m', format))
      }
    }
  }
  keys.set('ed25519 PKCS8', otherText('ed25519', ed25519Pkcs8(readFileSync(fileOf('ed25519'), 'utf8'))))
}, 60_000)

describe('private keys in the clear', () => {
  describe.each(Object.entries({ ...BENT, ...BENT_ARMOUR }))('%s', (_name, bend) => {
    test.each(names)('%s', async (name) => {
      expectToBe(await open(bend(key(name).text)), key(name))
    })
  })

  describe.each(Object.entries(BENT))('PuTTY, %s', (_name, bend) => {
    // Its literal \n is part of a comment here, and what bends line breaks makes it ambiguous.
    test.each(putty.filter(([name]) => !name.includes('backslash')))('%s', async (_file, ppk) => {
      expectToBe(await open(bend(ppk.text)), ppk)
    })
  })

  test('a PuTTY key whose comment looks like an escaped line break', async () => {
    const [, ppk] = putty.find(([name]) => name.includes('backslash')) ?? []
    if (ppk === undefined) throw new Error('no such fixture')
    const bent = [ppk.text, b64(ppk.text), ppk.text.replaceAll('\n', '\r\n'), ppk.text.replaceAll('\n', '\r')]
    for (const text of bent) expectToBe(await open(text), ppk)
  })

  test('a PuTTY key whose comment is not in UTF-8', async () => {
    const [, ppk] = putty.find(([name]) => name.includes('latin1')) ?? []
    if (ppk === undefined) throw new Error('no such fixture')
    expectToBe(await open(Buffer.from(ppk.text, 'latin1').toString('base64')), ppk)
  })

  test('a PuTTY key whose seed is written without the zeros at its end', async () => {
    const [, ppk] = putty.find(([name]) => name.startsWith('zeros')) ?? []
    if (ppk === undefined) throw new Error('no such fixture')
    expectToBe(await open(withShortSeed(ppk.text)), ppk)
  })

  test('a passphrase that nothing needs is left alone', async () => {
    expectToBe(await open(key('rsa PEM').text, 'whatever'), key('rsa PEM'))
  })

  test('a certificate in the same file does not hide the key', async () => {
    const { text } = key('rsa PKCS8')
    expectToBe(await open(`-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n${text}`), key('rsa PKCS8'))
  })
})

const pem = (pair: { privateKey: { export(options: { type: 'pkcs8'; format: 'pem' }): string | Buffer } }): string =>
  pair.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString()

const flipped = (text: string, at: number): string => {
  const [begin = '', ...lines] = text.trimEnd().split('\n')
  const end = lines.pop() ?? ''
  const bytes = Buffer.from(lines.join(''), 'base64')
  bytes.writeUInt8((bytes.at(at) ?? 0) ^ 1, at < 0 ? bytes.length + at : at)
  return `${begin}\n${bytes.toString('base64')}\n${end}\n`
}

describe('what is not a usable private key', () => {
  const wrong: [string, () => string, string, string][] = [
    ['a public key', () => key('rsa PEM').publicLine, 'holds a public key', 'base64'],
    ['a public key in base64', () => b64(`${key('rsa PEM').publicLine} me@here`), 'holds a public key', 'base64'],
    ['a certificate', () => 'ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1l', 'holds a certificate', 'base64'],
    [
      'an X.509 certificate',
      () => b64('-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----'),
      'holds a certificate',
      'base64',
    ],
    [
      'a public key in DER',
      () => b64(generateKeyPairSync('ed25519').publicKey.export({ type: 'spki', format: 'der' })),
      'holds a public key',
      'base64',
    ],
    ['half a PEM key', () => key('rsa PEM').text.slice(0, 500), 'PKCS#1, BEGIN RSA PRIVATE KEY) is cut off', 'base64'],
    ['half an OpenSSH key', () => key('rsa RFC4716').text.slice(0, 500), 'OpenSSH) is cut off', 'base64'],
    ['half a PuTTY key', () => puttyText('rsa-v3.ppk').slice(0, 500), 'PuTTY, .ppk) is cut off', 'base64'],
    ['a damaged body', () => key('rsa PEM').text.replace(/\n.{64}\n/, '\nAAAA\n'), 'damaged', 'base64'],
    ['a flipped bit in OpenSSH Ed25519', () => flipped(key('ed25519 RFC4716').text, 170), 'damaged', 'ssh-keygen -p'],
    ['a flipped bit in OpenSSH RSA', () => flipped(key('rsa RFC4716').text, -100), 'damaged', 'ssh-keygen -p'],
    ['a flipped bit in PKCS#1', () => flipped(key('rsa PEM').text, -100), 'damaged', 'ssh-keygen -p'],
    ['a flipped bit in SEC1', () => flipped(key('ecdsa256 PEM').text, 20), 'damaged', 'ssh-keygen -p'],
    ['a flipped bit in PKCS#8', () => flipped(key('ecdsa384 PKCS8').text, -20), 'damaged', 'openssl pkey'],
    [
      'a PuTTY key with another comment',
      () => puttyText('ed25519-v3.ppk').replace('test only', 'test onlx'),
      'PuTTY, .ppk) cannot be read: it is damaged',
      'puttygen key.ppk',
    ],
    [
      'a PuTTY key with another key inside',
      () => puttyText('ed25519-v2.ppk').replace(/(Private-Lines: 1\n.{20})./, '$1/'),
      'damaged',
      'puttygen',
    ],
    [
      'a PuTTY key of version 1',
      () => puttyText('ed25519-v2.ppk').replace('File-2', 'File-1'),
      'version that is not supported',
      'puttygen',
    ],
    ['a DSA key by PuTTY', () => puttyText('dsa-v3.ppk'), 'type DSA', 'ssh-keygen -t ed25519'],
    [
      'a key in the format of ssh.com',
      () => '---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nP2/56wAAAi8=\n---- END SSH2 ENCRYPTED PRIVATE KEY ----',
      'format of ssh.com',
      'puttygen key -O private-openssh',
    ],
    ['a PGP key', () => '-----BEGIN PGP PRIVATE KEY BLOCK-----\nlFgE\n', 'a PGP key', 'ssh-keygen'],
    ['a JSON Web Key', () => '{"kty":"OKP","crv":"Ed25519","d":"x"}', 'JSON Web Key', 'PEM'],
    [
      'a PKCS#12 file',
      () => b64(Buffer.from(`3013020103300606012a0401003006${'06012a040100'}`, 'hex')),
      'PKCS#12',
      'openssl pkcs12',
    ],
    ['words', () => 'please ask Dave', 'no private key', 'base64'],
    ['random base64', () => b64('x'.repeat(500)), 'no private key', 'base64'],
    ['random bytes', () => b64(randomBytes(500).fill(0x85, 0, 1)), 'no private key', 'base64'],
    ['nothing', () => '\n', 'no private key', 'base64'],
    ['base64 of nothing but base64', () => b64(b64(b64(b64(b64('x'))))), 'no private key', 'base64'],
    ['far too much', () => 'A'.repeat(70_000), 'larger than any', 'base64'],
    ['an Ed448 key', () => pem(generateKeyPairSync('ed448')), 'ed448', 'ssh-keygen -t ed25519'],
    [
      'a DSA key',
      () => pem(generateKeyPairSync('dsa', { modulusLength: 1024, divisorLength: 160 })),
      'type dsa',
      'ssh-keygen -t ed25519',
    ],
    [
      'a curve that SSH does not know',
      () => pem(generateKeyPairSync('ec', { namedCurve: 'secp256k1' })),
      'another curve than P-256',
      'ssh-keygen -t ed25519',
    ],
  ]
  test.each(wrong)('%s', async (_name, text, message, hint) => {
    const error = await failure(text())
    expect(error.code).toBe('secret_malformed')
    expect(error.message).toContain(message)
    expect(error.hint).toContain(hint)
  })
})
