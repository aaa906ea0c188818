import { argon2Sync, createDecipheriv, createHash, createHmac, timingSafeEqual } from 'node:crypto'
import { sshString, type WireReader, wireReader } from '../protocol/ssh-wire.ts'
import { cipherUnsupported, cutOff, damaged, malformed, passphraseWrong, tooCostly } from './key-errors.ts'
import { type KeyParts, readPublic, withoutZeros } from './key-parts.ts'

/** PuTTY's own format, versions 2 and 3 (appendix C of its manual). Its checksum is always verified. */

/** In the order in which they stand in the file; some are only in encrypted files of version 3. */
const NAMES = [
  'PuTTY-User-Key-File',
  'Encryption',
  'Comment',
  'Public-Lines',
  'Key-Derivation',
  'Argon2-Memory',
  'Argon2-Passes',
  'Argon2-Parallelism',
  'Argon2-Salt',
  'Private-Lines',
  'Private-MAC',
] as const
type Name = (typeof NAMES)[number]
type Fields = ReadonlyMap<Name, string>

const START = /PuTTY-User-Key-File-(\d{1,3}):/

export const isPutty = (text: string): boolean => START.test(text)

/**
 * Works by names and not by lines, which may have been lost. What a field holds goes up to the next name; a comment that
 * contains one of the names breaks the checksum and is refused.
 */
const readFields = (text: string): Fields => {
  const found: { readonly name: Name; readonly from: number; readonly to: number }[] = []
  for (const name of NAMES.slice(1)) {
    const from = text.indexOf(`${name}:`, found.at(-1)?.to ?? 0)
    if (from !== -1) found.push({ name, from, to: from + name.length + 1 })
  }
  return new Map(found.map(({ name, to }, index) => [name, text.slice(to, found[index + 1]?.from).trim()]))
}

const field = (fields: Fields, name: Name): string => {
  const value = fields.get(name)
  if (value === undefined) throw cutOff('PuTTY, .ppk')
  return value
}

/** `3 AAAA… …`: how many lines there were, which nobody needs, and base64. */
const blob = (fields: Fields, name: Name): Buffer => {
  const [, base64] = /^\d{1,4}\s([A-Za-z0-9+/=\s]*)$/.exec(field(fields, name)) ?? []
  if (base64 === undefined) throw damaged('putty')
  return Buffer.from(base64, 'base64')
}

const hex = (text: string): Buffer => Buffer.from(/^(?:[0-9a-fA-F]{2}){1,128}/.exec(text)?.[0] ?? '', 'hex')

interface PuttyFile {
  readonly version: 2 | 3
  readonly type: string
  readonly encryption: string
  readonly comment: string
  readonly publicBlob: Buffer
  /** Encrypted or not. */
  readonly secret: Buffer
  readonly mac: Buffer
  readonly fields: Fields
}

const versionOf = (digits: string | undefined): 2 | 3 => {
  if (digits === '2' || digits === '3') return Number(digits) as 2 | 3
  throw malformed(
    'the private key is a PuTTY key (.ppk) of a version that is not supported; 2 and 3 are',
    'Convert it: puttygen key.ppk -O private-openssh -o key, then store the output of: base64 key',
  )
}

const readFile = (text: string): PuttyFile => {
  const [start, digits] = START.exec(text) ?? []
  if (start === undefined) throw damaged('putty')
  const fields = readFields(text)
  const afterStart = text.slice(text.indexOf(start) + start.length)
  return {
    version: versionOf(digits),
    type: afterStart.trimStart().split(/\s/, 1)[0] ?? '',
    encryption: field(fields, 'Encryption'),
    comment: field(fields, 'Comment'),
    publicBlob: blob(fields, 'Public-Lines'),
    secret: blob(fields, 'Private-Lines'),
    mac: hex(field(fields, 'Private-MAC')),
    fields,
  }
}

/** Fails if the file is not even one. */
export const isPuttyEncrypted = (text: string): boolean => readFile(text).encryption !== 'none'

interface Keys {
  /** `null` for a file in the clear. */
  readonly cipher: { readonly key: Buffer; readonly iv: Buffer } | null
  readonly mac: Buffer
}

const sha1 = (...pieces: readonly Buffer[]): Buffer => createHash('sha1').update(Buffer.concat(pieces)).digest()

const keysOfVersion2 = (passphrase: Buffer | undefined): Keys => {
  const secret = passphrase ?? Buffer.alloc(0)
  const mac = sha1(Buffer.from('putty-private-key-file-mac-key'), secret)
  if (passphrase === undefined) return { cipher: null, mac }
  const halves = [0, 1].map((count) => sha1(Buffer.from([0, 0, 0, count]), secret))
  return { cipher: { key: Buffer.concat(halves).subarray(0, 32), iv: Buffer.alloc(16) }, mac }
}

/**
 * OpenSSL runs it, so no deadline stops it, and the memory is the connector's, for two keys at once. PuTTY itself writes
 * 8 MiB, some 20 passes and one lane; the largest that is allowed here takes about ten seconds.
 */
const MAX_MEMORY_KIB = 128 * 1024
const MAX_WORK_KIB = 8 * 1024 * 1024
const MAX_LANES = 16

const argon2Settings = (fields: Fields): { memory: number; passes: number; parallelism: number } => {
  const number = (name: Name): number => {
    const text = field(fields, name)
    if (!/^\d{1,10}$/.test(text)) throw damaged('putty')
    return Number(text)
  }
  const [memory, passes, parallelism] = [number('Argon2-Memory'), number('Argon2-Passes'), number('Argon2-Parallelism')]
  if (memory > MAX_MEMORY_KIB) throw tooCostly('putty', 'more than 128 MiB of memory for Argon2')
  if (memory * passes > MAX_WORK_KIB) throw tooCostly('putty', 'more than 8 GiB to go through for Argon2')
  if (parallelism > MAX_LANES) throw tooCostly('putty', `more than ${MAX_LANES} lanes of Argon2`)
  return { memory, passes, parallelism }
}

const FLAVOURS = { Argon2id: 'argon2id', Argon2i: 'argon2i', Argon2d: 'argon2d' } as const

const keysOfVersion3 = (fields: Fields, passphrase: Buffer | undefined): Keys => {
  if (passphrase === undefined) return { cipher: null, mac: Buffer.alloc(0) }
  const flavour = field(fields, 'Key-Derivation')
  if (!Object.hasOwn(FLAVOURS, flavour)) throw cipherUnsupported('putty')
  const derived = argon2Sync(FLAVOURS[flavour as keyof typeof FLAVOURS], {
    message: passphrase,
    nonce: hex(field(fields, 'Argon2-Salt')),
    tagLength: 80,
    ...argon2Settings(fields),
  })
  return {
    cipher: { key: derived.subarray(0, 32), iv: derived.subarray(32, 48) },
    mac: derived.subarray(48),
  }
}

const decrypt = (secret: Buffer, cipher: Keys['cipher']): Buffer => {
  if (cipher === null) return secret
  if (secret.length % 16 !== 0) throw damaged('putty')
  const work = createDecipheriv('aes-256-cbc', cipher.key, cipher.iv).setAutoPadding(false)
  return Buffer.concat([work.update(secret), work.final()])
}

/** Before version 3 a comment was in whatever character set the machine had. */
const CHARACTER_SETS = ['utf8', 'latin1'] as const

const isMacRight = (file: PuttyFile, key: Buffer, secret: Buffer): boolean =>
  CHARACTER_SETS.some((characters) => {
    const comment = Buffer.from(file.comment, characters)
    const covered = [file.type, file.encryption, comment, file.publicBlob, secret].map(sshString)
    const mac = createHmac(file.version === 2 ? 'sha1' : 'sha256', key)
      .update(Buffer.concat(covered))
      .digest()
    return mac.length === file.mac.length && timingSafeEqual(mac, file.mac)
  })

const open = (file: PuttyFile, passphrase: Buffer | undefined): Buffer => {
  if (passphrase !== undefined && file.encryption !== 'aes256-cbc') throw cipherUnsupported('putty')
  const keys = file.version === 2 ? keysOfVersion2(passphrase) : keysOfVersion3(file.fields, passphrase)
  try {
    const secret = decrypt(file.secret, keys.cipher)
    if (isMacRight(file, keys.mac, secret)) return secret
    throw passphrase === undefined ? damaged('putty') : passphraseWrong('putty')
  } finally {
    for (const key of [keys.mac, keys.cipher?.key, keys.cipher?.iv]) key?.fill(0)
  }
}

/** The seed is written as a little-endian number: where it ends in zeros it is shorter than 32 bytes. */
const seedOf = (reader: WireReader): Buffer => {
  const seed = Buffer.alloc(32)
  if (reader.bytes().copy(seed) === 0) throw damaged('putty')
  return seed
}

/** The caller has looked at whether a passphrase is needed. */
export const readPutty = (text: string, passphrase: Buffer | undefined): KeyParts => {
  const file = readFile(text)
  const half = readPublic(wireReader(file.publicBlob))
  const reader = wireReader(open(file, passphrase))
  if (half.kind === 'ed25519') return { ...half, seed: seedOf(reader) }
  const next = (): Buffer => withoutZeros(reader.bytes())
  if (half.kind === 'ecdsa') return { ...half, scalar: next() }
  return { ...half, d: next(), p: next(), q: next(), iqmp: next() }
}
