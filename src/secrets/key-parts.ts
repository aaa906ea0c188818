import { createECDH, createPrivateKey, createPublicKey } from 'node:crypto'
import { sshString, uint32, type WireReader } from '../protocol/ssh-wire.ts'
import { typeUnsupported } from './key-errors.ts'

/** The numbers that a key is made of, whatever file they came in. Integers are big-endian without a sign. */
export type KeyParts = Ed25519Parts | EcdsaParts | RsaParts

export interface Ed25519Parts {
  readonly kind: 'ed25519'
  readonly point: Buffer
  readonly seed: Buffer
}

export interface EcdsaParts {
  readonly kind: 'ecdsa'
  readonly curve: Curve
  /** Uncompressed. */
  readonly point: Buffer
  readonly scalar: Buffer
}

export interface RsaParts {
  readonly kind: 'rsa'
  readonly n: Buffer
  readonly e: Buffer
  readonly d: Buffer
  /** The inverse of q modulo p. */
  readonly iqmp: Buffer
  readonly p: Buffer
  readonly q: Buffer
}

/** SSH's names, OpenSSL's, and how many bytes a coordinate has. */
export const CURVES = {
  nistp256: { openssl: 'prime256v1', bytes: 32 },
  nistp384: { openssl: 'secp384r1', bytes: 48 },
  nistp521: { openssl: 'secp521r1', bytes: 66 },
} as const
export type Curve = keyof typeof CURVES

/** OpenSSH's own bound. A signature by a larger key takes seconds, on the event loop. */
const MAX_RSA_BYTES = 16_384 / 8

export const buffersOf = (parts: KeyParts): Buffer[] => Object.values(parts).filter((part) => Buffer.isBuffer(part))

export const withoutZeros = (integer: Buffer): Buffer => {
  const first = integer.findIndex((byte) => byte !== 0)
  return first === -1 ? Buffer.alloc(0) : integer.subarray(first)
}

const isEd25519 = ({ seed, point }: Ed25519Parts): boolean => {
  if (seed.length !== 32) return false
  const der = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed])
  try {
    const spki = createPublicKey(createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })).export({
      type: 'spki',
      format: 'der',
    })
    return spki.subarray(-32).equals(point)
  } finally {
    der.fill(0)
  }
}

export const pointOf = (curve: Curve, scalar: Buffer): Buffer => {
  const ecdh = createECDH(CURVES[curve].openssl)
  ecdh.setPrivateKey(scalar)
  return ecdh.getPublicKey()
}

const toBigInt = (integer: Buffer): bigint => (integer.length === 0 ? 0n : BigInt(`0x${integer.toString('hex')}`))

/** No power is taken, so that it costs less than a millisecond for the largest key. */
const isRsa = (parts: RsaParts): boolean => {
  const [n, e, d, iqmp, p, q] = [parts.n, parts.e, parts.d, parts.iqmp, parts.p, parts.q].map(toBigInt) as [
    bigint,
    bigint,
    bigint,
    bigint,
    bigint,
    bigint,
  ]
  if (p < 3n || q < 3n || e < 3n) return false
  return n === p * q && (e * d) % (p - 1n) === 1n && (e * d) % (q - 1n) === 1n && (iqmp * q) % p === 1n
}

/**
 * Whether the private half belongs to the public one. A file with a flipped bit can look whole; without this it would
 * be found out by a server that refuses the key, and an RSA signature by damaged numbers gives the key away.
 */
export const belongTogether = (parts: KeyParts): boolean => {
  if (parts.kind === 'ed25519') return isEd25519(parts)
  if (parts.kind === 'ecdsa') return pointOf(parts.curve, parts.scalar).equals(parts.point)
  if (withoutZeros(parts.n).length > MAX_RSA_BYTES) throw typeUnsupported('RSA with more than 16384 bits')
  return isRsa(parts)
}

/** RFC 4251, section 5: a leading zero where the first bit would be taken for a sign. */
const mpint = (integer: Buffer): Buffer => {
  const magnitude = withoutZeros(integer)
  const signed = ((magnitude[0] ?? 0) & 0x80) !== 0
  return sshString(signed ? Buffer.concat([Buffer.alloc(1), magnitude]) : magnitude)
}

const typeOf = (parts: KeyParts): string => {
  if (parts.kind === 'ed25519') return 'ssh-ed25519'
  return parts.kind === 'rsa' ? 'ssh-rsa' : `ecdsa-sha2-${parts.curve}`
}

const publicFields = (parts: KeyParts): Buffer[] => {
  if (parts.kind === 'ed25519') return [sshString(parts.point)]
  if (parts.kind === 'ecdsa') return [sshString(parts.curve), sshString(parts.point)]
  return [mpint(parts.e), mpint(parts.n)]
}

/** The public half as the SSH protocol writes it. */
export const publicBlob = (parts: KeyParts): Buffer => Buffer.concat([sshString(typeOf(parts)), ...publicFields(parts)])

const privateFields = (parts: KeyParts): Buffer[] => {
  if (parts.kind === 'ed25519') return [...publicFields(parts), sshString(Buffer.concat([parts.seed, parts.point]))]
  if (parts.kind === 'ecdsa') return [...publicFields(parts), mpint(parts.scalar)]
  return [parts.n, parts.e, parts.d, parts.iqmp, parts.p, parts.q].map(mpint)
}

/** What `publicBlob` writes, read: the type and a key without its private half. */
export const readPublic = (reader: WireReader): Omit<Ed25519Parts, 'seed'> | Omit<EcdsaParts, 'scalar'> | PublicRsa => {
  const type = reader.text()
  if (type === 'ssh-ed25519') return { kind: 'ed25519', point: reader.bytes() }
  if (type === 'ssh-rsa') return { kind: 'rsa', e: withoutZeros(reader.bytes()), n: withoutZeros(reader.bytes()) }
  const curve = curveOf(type)
  if (reader.text() !== curve) throw new TypeError('the curve differs from the type')
  return { kind: 'ecdsa', curve, point: reader.bytes() }
}
type PublicRsa = Pick<RsaParts, 'kind' | 'n' | 'e'>

/** What OpenSSH and PuTTY write and we do not read, in our words: nothing of a file is ever quoted. */
const OTHER_TYPES: ReadonlyMap<string, string> = new Map([
  ['ssh-dss', 'DSA'],
  ['ssh-ed448', 'Ed448'],
  ['ssh-xmss@openssh.com', 'XMSS'],
  ['sk-ssh-ed25519@openssh.com', 'ed25519-sk, which needs its hardware token,'],
  ['sk-ecdsa-sha2-nistp256@openssh.com', 'ecdsa-sk, which needs its hardware token,'],
])

export const curveOf = (type: string): Curve => {
  const curve = type.replace(/^ecdsa-sha2-/, '')
  if (Object.hasOwn(CURVES, curve) && curve !== type) return curve as Curve
  if (type.endsWith('-cert-v01@openssh.com')) throw typeUnsupported('certificate')
  const other = OTHER_TYPES.get(type)
  if (other === undefined) throw new TypeError('no type of key')
  throw typeUnsupported(other)
}

export const OPENSSH_MAGIC = 'openssh-key-v1\0'

/** PROTOCOL.key of OpenSSH, in the clear. This is the one format in which keys go on from here. */
export const writeOpenSsh = (parts: KeyParts): Buffer => {
  const check = Buffer.alloc(8)
  const fields = [check, sshString(typeOf(parts)), ...privateFields(parts), sshString('')]
  const length = fields.reduce((sum, field) => sum + field.length, 0)
  const padding = Buffer.from([1, 2, 3, 4, 5, 6, 7]).subarray(0, (8 - (length % 8)) % 8)
  const secret = Buffer.concat([...fields, padding])
  const head = [sshString('none'), sshString('none'), sshString(''), uint32(1), sshString(publicBlob(parts))]
  const file = Buffer.concat([Buffer.from(OPENSSH_MAGIC, 'latin1'), ...head, uint32(secret.length), secret])
  for (const buffer of [...fields, secret]) buffer.fill(0)
  return file
}
