import { execFileSync } from 'node:child_process'
import { generateKeyPairSync } from 'node:crypto'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { PublicKeyError, parsePublicKey } from '../../src/protocol/public-key.ts'
import { sshString } from '../../src/protocol/ssh-wire.ts'
import { scratchDirectory } from '../hosts/scratch.ts'

const directory = scratchDirectory()
const made = (type: string, bits: string): string => {
  const file = path.join(directory, `${type}${bits}`)
  execFileSync('ssh-keygen', ['-q', '-t', type, '-b', bits, '-N', '', '-C', '', '-f', file])
  return readFileSync(`${file}.pub`, 'utf8').trim()
}

const line = (type: string, ...fields: (string | Buffer)[]): string =>
  `${type} ${Buffer.concat([sshString(type), ...fields.map(sshString)]).toString('base64')}`

const POINT = (() => {
  const { x = '', y = '' } = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ format: 'jwk' })
  return Buffer.concat([Buffer.from([4]), Buffer.from(x, 'base64url'), Buffer.from(y, 'base64url')])
})()
const RSA = made('rsa', '2048')
const MODULUS = Buffer.from(RSA.split(' ')[1] ?? '', 'base64').subarray(-257)
const E = Buffer.from([1, 0, 1])
const EDWARDS = Buffer.alloc(32, 7)

describe("a person's public key", () => {
  test.each([
    ['ed25519', () => made('ed25519', '256')],
    ['ecdsa 256', () => made('ecdsa', '256')],
    ['ecdsa 384', () => made('ecdsa', '384')],
    ['ecdsa 521', () => made('ecdsa', '521')],
    ['rsa 2048', () => RSA],
    ['rsa 3072', () => made('rsa', '3072')],
    ['sk-ssh-ed25519', () => line('sk-ssh-ed25519@openssh.com', EDWARDS, 'ssh:')],
    ['sk-ecdsa', () => line('sk-ecdsa-sha2-nistp256@openssh.com', 'nistp256', POINT, 'ssh:work')],
  ])('%s is read and written again the same', (_name, key) => {
    const text = key()
    expect(parsePublicKey(text).line).toBe(text)
  })

  test.each([
    ['RSA of 1024 bits', made('rsa', '1024'), '1024 bits'],
    ['RSA of 2047 bits', line('ssh-rsa', E, Buffer.concat([Buffer.from([0x7f]), MODULUS.subarray(2)])), '2047 bits'],
    ['a negative RSA modulus', line('ssh-rsa', E, MODULUS.subarray(1)), 'not positive'],
    ['needless zeros', line('ssh-rsa', Buffer.concat([Buffer.from([0]), E]), MODULUS), 'needless zeros'],
    ['an even exponent', line('ssh-rsa', Buffer.from([2]), MODULUS), 'exponent'],
    ['exponent 1', line('ssh-rsa', Buffer.from([1]), MODULUS), 'exponent'],
    ['31 bytes', line('ssh-ed25519', EDWARDS.subarray(1)), '32 bytes'],
    ['another type inside', line('ssh-rsa', EDWARDS).replace('ssh-rsa', 'ssh-ed25519'), 'differs'],
    ['trailing bytes', line('ssh-ed25519', EDWARDS, 'x'), 'after the end'],
    [
      'a cut-off blob',
      `ssh-ed25519 ${Buffer.from(line('ssh-ed25519', EDWARDS).split(' ')[1] ?? '', 'base64')
        .subarray(0, 40)
        .toString('base64')}`,
      'cut off',
    ],
    ['a comment', `${RSA} me`, 'more than'],
    ['options', `restrict ${RSA}`, 'more than'],
    ['a line break', `${RSA}\n`, 'base64'],
    ['a certificate', line('ssh-ed25519-cert-v01@openssh.com', EDWARDS), 'not supported'],
    ['DSA', line('ssh-dss', EDWARDS), 'not supported'],
    ['a compressed point', line('ecdsa-sha2-nistp256', 'nistp256', POINT.subarray(0, 33)), 'uncompressed'],
    [
      'a point off the curve',
      line(
        'ecdsa-sha2-nistp256',
        'nistp256',
        Buffer.concat([POINT.subarray(0, 64), Buffer.from([(POINT[64] ?? 0) ^ 1])]),
      ),
      'curve',
    ],
    ['another curve', line('ecdsa-sha2-nistp384', 'nistp256', POINT), 'curve differs'],
    [
      'a hardware key of a web site',
      line('sk-ssh-ed25519@openssh.com', EDWARDS, 'https://bank.example'),
      'application',
    ],
    ['nothing', '', 'not supported'],
  ])('%s is refused', (_name, text, message) => {
    expect(() => parsePublicKey(text)).toThrow(PublicKeyError)
    expect(() => parsePublicKey(text)).toThrow(message)
  })

  test('any other bytes are refused or canonical, and nothing else is ever thrown', () => {
    const types = fc.constantFrom('ssh-ed25519', 'ssh-rsa', 'ecdsa-sha2-nistp256', 'sk-ssh-ed25519@openssh.com')
    fc.assert(
      fc.property(types, fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 4 }), (type, fields) => {
        const text = line(type, ...fields.map((field) => Buffer.from(field)))
        try {
          expect(parsePublicKey(text).line).toBe(text)
        } catch (error) {
          expect(error).toBeInstanceOf(PublicKeyError)
        }
      }),
    )
  })
})
