import { execFileSync } from 'node:child_process'
import { createPublicKey, type KeyObject, randomBytes, verify } from 'node:crypto'
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { expect } from 'vitest'
import { JobError } from '../../src/host/errors.ts'
import type { KeyOpener } from '../../src/secrets/key-opener.ts'
import { openKey } from '../../src/secrets/open-key.ts'
import { type LoginKey, openPrivateKey } from '../../src/secrets/private-key.ts'
import { secretOf } from '../../src/secrets/secret.ts'
import { scratchDirectory } from '../hosts/scratch.ts'

// Private keys by the real ssh-keygen (and by puttygen, checked in), what belongs to them, and the proof that one of
// ours is as good: it signs what their public half verifies.

export const PASSPHRASE = 'open sesame'
export const TYPES = ['ed25519', 'ecdsa256', 'ecdsa384', 'ecdsa521', 'rsa'] as const
export type Type = (typeof TYPES)[number]

export interface KnownKey {
  readonly text: string
  readonly publicLine: string
  /** As `ssh-keygen -l` says. */
  readonly fingerprint: string
  readonly verifier: KeyObject
}

export const sshKeygen = (...args: string[]): string =>
  execFileSync('ssh-keygen', args, { encoding: 'utf8', stdio: 'pipe' })

const directory = scratchDirectory()

/** ssh-keygen 9.2 does not export Ed25519. */
const verifierOf = (publicFile: string, publicLine: string): KeyObject => {
  if (!publicLine.startsWith('ssh-ed25519')) return createPublicKey(sshKeygen('-e', '-m', 'PKCS8', '-f', publicFile))
  const point = Buffer.from(publicLine.split(' ')[1] ?? '', 'base64').subarray(-32)
  const der = Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), point])
  return createPublicKey({ key: der, format: 'der', type: 'spki' })
}

const known = (text: string, publicFile: string): KnownKey => {
  const publicLine = readFileSync(publicFile, 'utf8').trim().split(' ').slice(0, 2).join(' ')
  const fingerprint = sshKeygen('-l', '-f', publicFile).split(' ')[1] ?? ''
  return { text, publicLine, fingerprint, verifier: verifierOf(publicFile, publicLine) }
}

/** The same key under another name, whose file is what `change` makes of it. */
export const keyFile = (type: Type, name: string, ...change: string[]): KnownKey => {
  const file = path.join(directory, name)
  copyFileSync(path.join(directory, type), file)
  sshKeygen('-q', '-p', '-P', '', '-f', file, ...change)
  return known(readFileSync(file, 'utf8'), path.join(directory, `${type}.pub`))
}

export const makeKey = (type: Type): void => {
  const [, name = type, bits] = /^(ecdsa)(\d{3})$/.exec(type) ?? []
  sshKeygen('-q', '-t', name, ...(bits ? ['-b', bits] : []), '-N', '', '-C', '', '-f', path.join(directory, type))
}

/** A key that node:crypto or openssl has written, for the given type's public half. */
export const otherText = (type: Type, text: string): KnownKey => known(text, path.join(directory, `${type}.pub`))

export const fileOf = (type: Type): string => path.join(directory, type)

export const writeScratch = (name: string, text: string): string => {
  const file = path.join(directory, name)
  writeFileSync(file, text, { mode: 0o600 })
  return file
}

const PUTTY = path.join(import.meta.dirname, 'putty-keys')

/** A file's name begins with the name of the public half that belongs to it. */
export const puttyKeys = (): [string, KnownKey][] =>
  readdirSync(PUTTY)
    .filter((name) => name.endsWith('.ppk') && !name.startsWith('dsa'))
    .map((name) => [
      name,
      known(readFileSync(path.join(PUTTY, name), 'latin1'), path.join(PUTTY, `${name.split('-')[0]}.pub`)),
    ])

export const puttyText = (name: string): string => readFileSync(path.join(PUTTY, name), 'latin1')

/** As in the product, but here: a table of hundreds need not start hundreds of workers. */
export const inThisThread: Pick<KeyOpener, 'open'> = { open: async (key, passphrase) => openKey(key, passphrase) }

export const open = (text: string, passphrase?: string, opener = inThisThread): Promise<LoginKey> =>
  openPrivateKey(
    { privateKey: secretOf(text), ...(passphrase === undefined ? {} : { passphrase: secretOf(passphrase) }) },
    opener,
  )

export const failure = async (text: string, passphrase?: string, opener = inThisThread): Promise<JobError> => {
  try {
    await open(text, passphrase, opener)
  } catch (error) {
    if (error instanceof JobError) return error
    throw error
  }
  throw new Error('was accepted')
}

/** ssh2's name for what rsa-sha2-256 and -512 sign with; the other types have one hash each. */
const hashesOf = (type: string): (string | undefined)[] => (type === 'ssh-rsa' ? ['sha256', 'sha512'] : [undefined])

const HASHES: Readonly<Record<string, string>> = {
  'ecdsa-sha2-nistp256': 'sha256',
  'ecdsa-sha2-nistp384': 'sha384',
  'ecdsa-sha2-nistp521': 'sha512',
}

export const signs = (key: LoginKey, verifier: KeyObject): boolean => {
  const challenge = randomBytes(48)
  return hashesOf(key.type).every((hash) => {
    const signature = key.parsed.sign(challenge, hash)
    if (signature instanceof Error) return false
    return verify(hash ?? HASHES[key.type] ?? null, challenge, verifier, signature)
  })
}

export const expectToBe = (key: LoginKey, { publicLine, fingerprint, verifier }: KnownKey): void => {
  expect(key).toMatchObject({ publicLine, fingerprint })
  expect(signs(key, verifier)).toBe(true)
}

export const b64 = (text: string | Buffer): string => Buffer.from(text).toString('base64')
const utf16 = (text: string): Buffer => Buffer.from(`\uFEFF${text}`, 'utf16le')
const body = (text: string): string => text.replaceAll(/-----[A-Z ]+-----\n?/g, '')

/** What people do to a key on its way into a secret, whatever its format. */
export const BENT: Readonly<Record<string, (text: string) => string>> = {
  'as it is': (text) => text,
  base64: b64,
  'base64 -w 76': (text) => b64(text).replace(/.{76}/g, '$&\n'),
  'base64, CRLF every 64': (text) => b64(text).replace(/.{64}/g, '$&\r\n'),
  'base64 with spaces': (text) => b64(text).replace(/.{60}/g, '$& '),
  'base64 with literal \\n': (text) => `${b64(text).replace(/.{76}/g, '$&\\n')}\\n`,
  'base64 in quotes': (text) => `"${b64(text)}"\n`,
  'base64 without its padding': (text) => b64(text).replace(/=+$/, ''),
  base64url: (text) => Buffer.from(text).toString('base64url'),
  'base64 twice': (text) => b64(b64(text)),
  'base64 twice, both wrapped': (text) => b64(b64(text).replace(/.{76}/g, '$&\n')).replace(/.{76}/g, '$&\n'),
  'base64 of CRLF': (text) => b64(text.replaceAll('\n', '\r\n')),
  'base64 of a byte order mark and CRLF': (text) => b64(`\uFEFF${text.replaceAll('\n', '\r\n')}`),
  'base64 of UTF-16': (text) => b64(utf16(text)),
  'base64 of UTF-16, the other way round': (text) => b64(utf16(text).swap16()),
  'base64 of UTF-16 without its mark': (text) => b64(utf16(text).subarray(2)),
  CRLF: (text) => text.replaceAll('\n', '\r\n'),
  'CR only': (text) => text.replaceAll('\n', '\r'),
  'empty lines between': (text) => text.replaceAll('\n', '\n\n'),
  'byte order mark': (text) => `\uFEFF${text}`,
  'invisible characters of a web page': (text) => text.replaceAll('\n', '\u200B\n\u200B'),
  indented: (text) => text.replaceAll(/^/gm, '    '),
  'trailing spaces': (text) => text.replaceAll('\n', '   \n'),
  'literal \\n': (text) => text.replaceAll('\n', '\\n'),
  'literal \\r\\n': (text) => text.replaceAll('\n', '\\r\\n'),
  'literal \\n, escaped twice': (text) => text.replaceAll('\n', '\\\\n'),
  'newlines turned to spaces': (text) => text.replaceAll('\n', ' '),
  'no line break at the end': (text) => text.trimEnd(),
  'in quotes': (text) => `"${text.trimEnd()}"`,
  'text before and after': (text) => `Bag Attributes\n  friendlyName: x\n${text}\nbye\n`,
}

/** Only for what has BEGIN and END lines. */
export const BENT_ARMOUR: Readonly<Record<string, (text: string) => string>> = {
  'body on one line': (text) =>
    text.replace(/(-\n)([^-]+)(\n-)/, (_all, a, inner, z) => a + inner.replaceAll('\n', '') + z),
  'all on one line without a gap': (text) => text.replaceAll('\n', ''),
  'without BEGIN and END': body,
  'without BEGIN and END, on one line': (text) => body(text).replaceAll('\n', ''),
  'base64 without BEGIN and END': (text) => b64(body(text)),
  'base64 of the binary': (text) => b64(Buffer.from(body(text), 'base64')),
  'without the BEGIN line': (text) => text.replace(/-----BEGIN.*\n/, ''),
  'without the END line': (text) => text.replace(/-----END.*\n/, ''),
  'BEGIN line twice': (text) => text.replace(/-----BEGIN.*\n/, '$&$&'),
  'the words of another format': (text) => text.replaceAll(/(BEGIN|END) [A-Z ]*PRIVATE/g, '$1 ANY PRIVATE'),
  'dashes of a word processor': (text) => text.replaceAll('-----', '—–-'),
}
