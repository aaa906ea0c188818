import { createHash, createPublicKey } from 'node:crypto'
import { decodeBase64, sshString, WireError, type WireReader, wireReader } from './ssh-wire.ts'

/** A person's public key that was understood completely: each field read, checked and written again. */
export interface PublicKey {
  readonly type: string
  /** The blob's fields after the type, as they go into a certificate. */
  readonly fields: Buffer
  readonly blob: Buffer
  /** `type base64`, canonical. */
  readonly line: string
}

export class PublicKeyError extends Error {}

const MIN_RSA_BITS = 2048
const MAX_RSA_BITS = 16384

const fail = (message: string): never => {
  throw new PublicKeyError(message)
}

const ed25519 = (reader: WireReader): Buffer => {
  const point = reader.bytes()
  if (point.length !== 32) fail('an Ed25519 key has 32 bytes')
  return sshString(point)
}

const CURVES = {
  nistp256: { bytes: 32, jwk: 'P-256' },
  nistp384: { bytes: 48, jwk: 'P-384' },
  nistp521: { bytes: 66, jwk: 'P-521' },
} as const
type Curve = keyof typeof CURVES

/** OpenSSL refuses a point that is not on its curve. */
const checkOnCurve = (curve: Curve, point: Buffer): void => {
  const { bytes, jwk } = CURVES[curve]
  const x = point.subarray(1, 1 + bytes).toString('base64url')
  const y = point.subarray(1 + bytes).toString('base64url')
  try {
    createPublicKey({ key: { kty: 'EC', crv: jwk, x, y }, format: 'jwk' })
  } catch {
    fail('the point is not on its curve')
  }
}

const ecdsa =
  (curve: Curve) =>
  (reader: WireReader): Buffer => {
    if (reader.text() !== curve) fail('the curve differs from the key type')
    const point = reader.bytes()
    if (point.length !== 1 + 2 * CURVES[curve].bytes || point[0] !== 4) fail('not an uncompressed curve point')
    checkOnCurve(curve, point)
    return Buffer.concat([sshString(curve), sshString(point)])
  }

/** The application that a hardware key is bound to, `ssh:` unless the person chose another. */
const application = (reader: WireReader): Buffer => {
  const name = reader.text()
  if (!/^ssh:[\x21-\x7e]{0,128}$/.test(name)) fail('a hardware key whose application does not begin with ssh:')
  return sshString(name)
}

const withApplication =
  (inner: (reader: WireReader) => Buffer) =>
  (reader: WireReader): Buffer =>
    Buffer.concat([inner(reader), application(reader)])

/** A positive integer without needless leading zeros. */
const positiveInteger = (reader: WireReader): { value: Buffer; bits: number; odd: boolean } => {
  const value = reader.bytes()
  const [first, second] = value
  if (first === undefined || (first & 0x80) !== 0) fail('an RSA number that is not positive')
  if (first === 0 && (second === undefined || (second & 0x80) === 0)) fail('an RSA number with needless zeros')
  const magnitude = first === 0 ? value.subarray(1) : value
  const bits = magnitude.length * 8 - Math.clz32(magnitude[0] ?? 0) + 24
  return { value, bits, odd: ((magnitude.at(-1) ?? 0) & 1) === 1 }
}

const rsa = (reader: WireReader): Buffer => {
  const exponent = positiveInteger(reader)
  const modulus = positiveInteger(reader)
  if (!exponent.odd || exponent.bits < 2 || exponent.bits > 64) fail('an RSA exponent that is not usable')
  if (modulus.bits < MIN_RSA_BITS) fail(`an RSA key of ${modulus.bits} bits; the least is ${MIN_RSA_BITS}`)
  if (modulus.bits > MAX_RSA_BITS || !modulus.odd) fail('an RSA modulus that is not usable')
  return Buffer.concat([sshString(exponent.value), sshString(modulus.value)])
}

const FIELDS: ReadonlyMap<string, (reader: WireReader) => Buffer> = new Map([
  ['ssh-ed25519', ed25519],
  ['ecdsa-sha2-nistp256', ecdsa('nistp256')],
  ['ecdsa-sha2-nistp384', ecdsa('nistp384')],
  ['ecdsa-sha2-nistp521', ecdsa('nistp521')],
  ['sk-ssh-ed25519@openssh.com', withApplication(ed25519)],
  ['sk-ecdsa-sha2-nistp256@openssh.com', withApplication(ecdsa('nistp256'))],
  ['ssh-rsa', rsa],
])

/** Of a line `type base64`, as `ssh-keygen -l` prints it. */
export const fingerprintOfLine = (line: string): string => {
  const blob = Buffer.from(line.split(' ', 2)[1] ?? '', 'base64')
  return `SHA256:${createHash('sha256').update(blob).digest('base64').replace(/=+$/, '')}`
}

const readFields = (type: string, base64: string): { blob: Buffer; fields: Buffer } => {
  const readKey =
    FIELDS.get(type) ?? fail('a key type that is not supported; use ed25519, ECDSA, a security key, or RSA')
  const blob = decodeBase64(base64) ?? fail('not base64')
  const reader = wireReader(blob)
  if (reader.text() !== type) fail('the type in the key differs from the one before it')
  const fields = readKey(reader)
  if (!reader.isAtEnd()) fail('bytes after the end of the key')
  return { blob, fields }
}

/**
 * Reads `type base64` (one space, no comment, no options) and nothing else. Throws {@link PublicKeyError}, whose
 * message never quotes the key.
 */
export const parsePublicKey = (line: string): PublicKey => {
  const [type = '', base64 = '', ...more] = line.split(' ')
  if (more.length > 0) fail('more than a type and a key')
  try {
    const { blob, fields } = readFields(type, base64)
    const rewritten = Buffer.concat([sshString(type), fields])
    if (!rewritten.equals(blob)) fail('the key is not in its canonical form')
    return { type, fields, blob: rewritten, line: `${type} ${rewritten.toString('base64')}` }
  } catch (error) {
    if (error instanceof WireError) fail('the key is cut off')
    throw error
  }
}
