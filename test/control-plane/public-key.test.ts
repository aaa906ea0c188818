import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { createKeySeal } from '../../src/control-plane/access/key-seal.ts'
import { parsePublicKey } from '../../src/control-plane/access/public-key.ts'
import { PublicKey } from '../../src/protocol/primitives.ts'
import { sshString } from '../../src/protocol/ssh-wire.ts'
import { tempFolder } from './harness.ts'

const run = promisify(execFile)

const keygen = async (...args: string[]): Promise<string> => {
  const file = join(await tempFolder(), 'key')
  await run('ssh-keygen', ['-q', '-N', '', '-C', 'dana@laptop', '-f', file, ...args])
  return readFile(`${file}.pub`, 'utf8')
}

const blobOf = (line: string): Buffer => Buffer.from(line.split(' ')[1] ?? '', 'base64')

const problem = (text: string): string | null => {
  const parsed = parsePublicKey(text)
  return parsed.ok ? null : parsed.problem
}

test.each([
  ['ed25519', ['-t', 'ed25519']],
  ['ecdsa 256', ['-t', 'ecdsa', '-b', '256']],
  ['ecdsa 384', ['-t', 'ecdsa', '-b', '384']],
  ['ecdsa 521', ['-t', 'ecdsa', '-b', '521']],
  ['rsa 2048', ['-t', 'rsa', '-b', '2048']],
])('%s: taken, without its comment', async (_name, args) => {
  const line = await keygen(...args)
  const expected = line.split(' ').slice(0, 2).join(' ')
  expect(parsePublicKey(line)).toEqual({ ok: true, key: expected })
  expect(PublicKey.safeParse(expected).success).toBe(true)
})

test('security keys are taken, with a sound application name only', async () => {
  const inner = blobOf(await keygen('-t', 'ed25519'))
  const point = inner.subarray(-32)
  const type = 'sk-ssh-ed25519@openssh.com'
  const line = (application: string) =>
    `${type} ${Buffer.concat([sshString(type), sshString(point), sshString(application)]).toString('base64')}`
  expect(problem(line('ssh:'))).toBeNull()
  expect(problem(line(''))).toContain('application')
  expect(problem(line('a\nb'))).toContain('application')
})

test('an RSA key below 2048 bits is refused', async () => {
  expect(problem(await keygen('-t', 'rsa', '-b', '1024'))).toContain('2048')
})

test('what is not exactly one sound key is refused', async () => {
  const line = (await keygen('-t', 'ed25519')).trim()
  const [type = '', base64 = ''] = line.split(' ')
  const blob = blobOf(line)
  const withBlob = (bytes: Buffer, name = type) => `${name} ${bytes.toString('base64')}`
  expect(problem('')).toContain('not supported')
  expect(problem(`command="id" ${line}`)).toContain('not supported')
  expect(problem(`${line}\n${line}`)).toContain('one key')
  expect(problem(withBlob(blob, 'ssh-rsa'))).toContain('differs')
  expect(problem(withBlob(Buffer.concat([blob, Buffer.from('x')])))).toContain('after the end')
  expect(problem(withBlob(blob.subarray(0, -1)))).toContain('cut off')
  expect(problem(withBlob(Buffer.concat([sshString(type), sshString(Buffer.alloc(31))])))).toContain('32 bytes')
  expect(problem(`${type} ${base64.slice(0, -1)}*`)).toContain('base64')
  expect(problem(`ssh-ed25519-cert-v01@openssh.com ${base64}`)).toContain('certificate')
  expect(problem(`ssh-dss ${base64}`)).toContain('not supported')
  expect(problem(`__proto__ ${base64}`)).toContain('not supported')
  expect(problem(`ssh-ed25519 ${'A'.repeat(10_000)}`)).toContain('too long')
})

test('a point that is not on its curve is refused', async () => {
  const line = await keygen('-t', 'ecdsa', '-b', '256')
  const blob = Buffer.from(blobOf(line))
  blob[blob.length - 1] = (blob.at(-1) ?? 0) ^ 1
  expect(problem(`ecdsa-sha2-nistp256 ${blob.toString('base64')}`)).toContain('curve')
})

test('a sealed key opens only with its own key and for its own grant', () => {
  const seal = createKeySeal(randomBytes(32), randomBytes)
  const sealed = seal.seal('secret', 'grt_1')
  expect(sealed).not.toContain('secret')
  expect(seal.open(sealed, 'grt_1')).toBe('secret')
  expect(() => seal.open(sealed, 'grt_2')).toThrow()
  expect(() => createKeySeal(randomBytes(32), randomBytes).open(sealed, 'grt_1')).toThrow()
  expect(seal.seal('secret', 'grt_1')).not.toBe(sealed)
})
