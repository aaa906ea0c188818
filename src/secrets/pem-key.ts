import { createPrivateKey, createPublicKey, ECDH, type KeyObject } from 'node:crypto'
import { type DerItem, derItems, INTEGER, readDer, smallInteger } from './der.ts'
import {
  cipherUnsupported,
  damaged,
  type KeyFormat,
  passphraseWrong,
  tooCostly,
  typeUnsupported,
} from './key-errors.ts'
import { CURVES, type Curve, type EcdsaParts, type Ed25519Parts, type KeyParts, type RsaParts } from './key-parts.ts'

/** PKCS#1, SEC1, PKCS#8 and the encryption that OpenSSL writes around them. */

export interface PemKey {
  readonly format: Exclude<KeyFormat, 'openssh' | 'putty'>
  /** DER, or what stands in the body of an encrypted PEM file. */
  readonly bytes: Buffer
  /** Of an encrypted PEM file: RSA, EC or DSA, and `CIPHER,IV`. */
  readonly pem?: { readonly algorithm: string; readonly dekInfo: string }
}

/**
 * These derivations run inside OpenSSL, where no deadline stops them: 10 million rounds of PBKDF2 are some seconds, and
 * so is scrypt with this product of its three parameters. OpenSSL itself writes 2048, and 16384·8·1.
 */
const MAX_ITERATIONS = 10_000_000
const MAX_SCRYPT = 2 ** 24

const PBES2 = '2a864886f70d01050d'
const SCRYPT = '2b06010401da47040b'

const inside = (item: DerItem | undefined): DerItem[] => derItems(item?.content ?? Buffer.alloc(0))
const oidOf = (item: DerItem | undefined): string => item?.content.toString('hex') ?? ''
const integersOf = (items: readonly DerItem[]): number[] =>
  items.filter(({ tag }) => tag === INTEGER).map((item) => smallInteger(item))

const checkCost = (der: Buffer): void => {
  const [algorithm] = derItems(readDer(der).content)
  const [scheme, parameters] = inside(algorithm)
  const [derivation, settings] = oidOf(scheme) === PBES2 ? inside(inside(parameters)[0]) : [scheme, parameters]
  const [first = 0, ...others] = integersOf(inside(settings))
  const isScrypt = oidOf(derivation) === SCRYPT
  const work = isScrypt ? others.slice(0, 2).reduce((product, value) => product * value, first) : first
  if (work > (isScrypt ? MAX_SCRYPT : MAX_ITERATIONS)) {
    throw tooCostly('pkcs8-encrypted', `more than ${isScrypt ? 'N·r·p = 2^24 of scrypt' : `${MAX_ITERATIONS} rounds`}`)
  }
}

const asPem = (key: PemKey): string => {
  const label = `${key.pem?.algorithm} PRIVATE KEY`
  const body = key.bytes
    .toString('base64')
    .match(/.{1,64}/g)
    ?.join('\n')
  return `-----BEGIN ${label}-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: ${key.pem?.dekInfo}\n\n${body}\n-----END ${label}-----\n`
}

const decode = (key: PemKey, passphrase: Buffer | undefined): KeyObject => {
  const secret = passphrase === undefined ? {} : { passphrase }
  if (key.format === 'pem-encrypted') return createPrivateKey({ key: asPem(key), format: 'pem', ...secret })
  if (key.format === 'pkcs8-encrypted') checkCost(key.bytes)
  const type = key.format === 'pkcs8-encrypted' ? 'pkcs8' : key.format
  return createPrivateKey({ key: key.bytes, format: 'der', type, ...secret })
}

/** Of the cipher or the derivation. ERR_OSSL_UNSUPPORTED is another: what came out was no key. */
const UNSUPPORTED = new Set(['ERR_OSSL_EVP_UNSUPPORTED', 'ERR_OSSL_PEM_UNSUPPORTED_ENCRYPTION'])

const isUnsupported = (error: unknown): boolean => {
  const code = (error as NodeJS.ErrnoException).code ?? ''
  return UNSUPPORTED.has(code) || code.includes('MEMORY_LIMIT')
}

/** Without the right passphrase padding is wrong nearly always; where it is right by chance the DER is not. */
const explain = (key: PemKey, passphrase: Buffer | undefined, error: unknown): Error => {
  if (passphrase === undefined) return damaged(key.format)
  return isUnsupported(error) ? cipherUnsupported(key.format) : passphraseWrong(key.format)
}

const rsaParts = (key: KeyObject): RsaParts => {
  const der = key.export({ type: 'pkcs1', format: 'der' })
  const numbers = derItems(readDer(der).content).map(({ content }) => content)
  const [, n, e, d, p, q, , , iqmp] = numbers
  if (!n || !e || !d || !p || !q || !iqmp || numbers.length !== 9)
    throw typeUnsupported('RSA with more than two primes')
  return { kind: 'rsa', n, e, d, p, q, iqmp }
}

const ecParts = (key: KeyObject): EcdsaParts => {
  const name = key.asymmetricKeyDetails?.namedCurve
  const found = Object.entries(CURVES).find(([, { openssl }]) => openssl === name)
  if (found === undefined) throw typeUnsupported('ECDSA with another curve than P-256, P-384 and P-521')
  const [, scalar] = derItems(readDer(key.export({ type: 'sec1', format: 'der' })).content)
  const [, bits] = derItems(readDer(createPublicKey(key).export({ type: 'spki', format: 'der' })).content)
  if (scalar === undefined || bits === undefined) throw damaged('sec1')
  const stored = bits.content.subarray(1)
  const point = Buffer.from(ECDH.convertKey(stored, found[1].openssl, undefined, undefined, 'uncompressed') as Buffer)
  return { kind: 'ecdsa', curve: found[0] as Curve, point, scalar: scalar.content }
}

const ed25519Parts = (key: KeyObject): Ed25519Parts => {
  const seed = key.export({ type: 'pkcs8', format: 'der' }).subarray(-32)
  const point = createPublicKey(key).export({ type: 'spki', format: 'der' }).subarray(-32)
  return { kind: 'ed25519', seed, point }
}

/** node:crypto reads them: sshpk crashes the process on a wrong passphrase (1.18.0), and ssh2 knows no PKCS#8. */
export const readPem = (key: PemKey, passphrase: Buffer | undefined): KeyParts => {
  let opened: KeyObject
  try {
    opened = decode(key, passphrase)
  } catch (error) {
    throw error instanceof Error && error.name === 'JobError' ? error : explain(key, passphrase, error)
  }
  if (opened.asymmetricKeyType === 'rsa') return rsaParts(opened)
  if (opened.asymmetricKeyType === 'ec') return ecParts(opened)
  if (opened.asymmetricKeyType === 'ed25519') return ed25519Parts(opened)
  throw typeUnsupported(opened.asymmetricKeyType ?? 'unknown')
}
