import { createDecipheriv, type DecipherGCM } from 'node:crypto'
import bcrypt from 'bcrypt-pbkdf'
import { WireError, type WireReader, wireReader } from '../protocol/ssh-wire.ts'
import { openChachaPoly } from './chacha-poly.ts'
import { cipherUnsupported, cutOff, damaged, passphraseWrong } from './key-errors.ts'
import { type KeyParts, OPENSSH_MAGIC, publicBlob, readPublic, withoutZeros } from './key-parts.ts'

/** OpenSSH's own format (its PROTOCOL.key), with every cipher that ssh-keygen -Z offers. */

interface Cipher {
  readonly openssl: string
  readonly keyBytes: number
  readonly ivBytes: number
  readonly tagBytes: number
}

const cipher = (openssl: string, keyBytes: number, ivBytes: number, tagBytes = 0): Cipher => ({
  openssl,
  keyBytes,
  ivBytes,
  tagBytes,
})

const CHACHA = cipher('chacha20-poly1305', 64, 0, 16)
const CIPHERS: ReadonlyMap<string, Cipher> = new Map([
  ...[128, 192, 256].flatMap((bits): [string, Cipher][] => [
    [`aes${bits}-ctr`, cipher(`aes-${bits}-ctr`, bits / 8, 16)],
    [`aes${bits}-cbc`, cipher(`aes-${bits}-cbc`, bits / 8, 16)],
    [`aes${bits}-gcm@openssh.com`, cipher(`aes-${bits}-gcm`, bits / 8, 12, 16)],
  ]),
  ['3des-cbc', cipher('des-ede3-cbc', 24, 8)],
  ['chacha20-poly1305@openssh.com', CHACHA],
])

interface Container {
  readonly cipher: string
  readonly kdf: string
  readonly kdfOptions: Buffer
  readonly publicBlob: Buffer
  readonly secret: Buffer
  readonly tag: Buffer
}

const readContainer = (file: Buffer): Container => {
  const reader = wireReader(file.subarray(OPENSSH_MAGIC.length))
  const head = { cipher: reader.text(), kdf: reader.text(), kdfOptions: reader.bytes() }
  if (reader.uint32() !== 1) throw damaged('openssh')
  return { ...head, publicBlob: reader.bytes(), secret: reader.bytes(), tag: reader.rest() }
}

export const isOpenSsh = (file: Buffer): boolean =>
  file.subarray(0, OPENSSH_MAGIC.length).toString('latin1') === OPENSSH_MAGIC

/** Cipher `none` means that it is in the clear. Fails if the file is not whole. */
export const isOpenSshEncrypted = (file: Buffer): boolean => {
  try {
    return readContainer(file).cipher !== 'none'
  } catch (error) {
    throw error instanceof WireError ? cutOff('OpenSSH') : error
  }
}

/** In JavaScript, so that the deadline of whoever runs it can stop it: how many rounds there are is the file's choice. */
const derive = ({ kdf, kdfOptions }: Container, passphrase: Buffer, length: number): Buffer => {
  const reader = wireReader(kdfOptions)
  const [salt, rounds] = [reader.bytes(), reader.uint32()]
  const derived = Buffer.alloc(length)
  if (kdf !== 'bcrypt') throw cipherUnsupported('openssh')
  if (bcrypt.pbkdf(passphrase, passphrase.length, salt, salt.length, derived, length, rounds) !== 0) {
    throw damaged('openssh')
  }
  return derived
}

const decipher = (by: Cipher, derived: Buffer, { secret, tag }: Container): Buffer | null => {
  const key = derived.subarray(0, by.keyBytes)
  if (by === CHACHA) return openChachaPoly(key, secret, tag)
  const work = createDecipheriv(by.openssl, key, derived.subarray(by.keyBytes)).setAutoPadding(false)
  if (by.tagBytes > 0) (work as DecipherGCM).setAuthTag(tag)
  try {
    return Buffer.concat([work.update(secret), work.final()])
  } catch {
    return null
  }
}

/** Ciphers without a tag open with any passphrase: two equal numbers at the beginning tell. */
const areCheckNumbersEqual = (secret: Buffer): boolean =>
  secret.length >= 8 && secret.subarray(0, 4).equals(secret.subarray(4, 8))

const decrypt = (container: Container, passphrase: Buffer): Buffer => {
  const by = CIPHERS.get(container.cipher)
  if (by === undefined) throw cipherUnsupported('openssh')
  if (container.tag.length !== by.tagBytes) throw damaged('openssh')
  const derived = derive(container, passphrase, by.keyBytes + by.ivBytes)
  try {
    const secret = decipher(by, derived, container)
    if (secret === null || !areCheckNumbersEqual(secret)) throw passphraseWrong('openssh')
    return secret
  } finally {
    derived.fill(0)
  }
}

const readRsa = (reader: WireReader): KeyParts => {
  const next = (): Buffer => withoutZeros(reader.bytes())
  // Literals are evaluated in the order in which they stand, which is the order of the file.
  return { kind: 'rsa', n: next(), e: next(), d: next(), iqmp: next(), p: next(), q: next() }
}

const readPrivate = (secret: Buffer): KeyParts => {
  const reader = wireReader(secret.subarray(8))
  const type = wireReader(reader.rest()).text()
  if (type === 'ssh-rsa') {
    reader.bytes()
    return readRsa(reader)
  }
  const half = readPublic(reader)
  if (half.kind === 'ecdsa') return { ...half, scalar: withoutZeros(reader.bytes()) }
  if (half.kind === 'ed25519') return { ...half, seed: reader.bytes().subarray(0, 32) }
  throw damaged('openssh')
}

/** The caller has looked at whether a passphrase is needed. */
export const readOpenSsh = (file: Buffer, passphrase: Buffer | undefined): KeyParts => {
  const container = readContainer(file)
  const secret = passphrase === undefined ? container.secret : decrypt(container, passphrase)
  if (!areCheckNumbersEqual(secret)) throw damaged('openssh')
  const parts = readPrivate(secret)
  if (!publicBlob(parts).equals(container.publicBlob)) throw damaged('openssh')
  return parts
}
