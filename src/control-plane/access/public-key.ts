import { createPublicKey } from 'node:crypto'
import { SshReader } from './ssh-wire.ts'

const MIN_RSA_BITS = 2048
const MAX_RSA_BITS = 16384
const MAX_INPUT = 8192

export type ParsedKey = { ok: true; key: string } | { ok: false; problem: string }

class Refused extends Error {}

const refuse = (problem: string): never => {
  throw new Refused(problem)
}

const CURVES: Readonly<Record<string, { jwk: string; bytes: number }>> = {
  nistp256: { jwk: 'P-256', bytes: 32 },
  nistp384: { jwk: 'P-384', bytes: 48 },
  nistp521: { jwk: 'P-521', bytes: 66 },
}

const checkEd25519 = (reader: SshReader): void => {
  if (reader.string().length !== 32) refuse('an ed25519 key has 32 bytes')
}

const checkCurvePoint = (name: string, reader: SshReader): void => {
  const curve = CURVES[name] ?? refuse('unknown curve')
  if (reader.string().toString() !== name) refuse('the curve does not match the key type')
  const point = reader.string()
  if (point.length !== 1 + 2 * curve.bytes || point[0] !== 4) refuse('the point is not in uncompressed form')
  const x = point.subarray(1, 1 + curve.bytes).toString('base64url')
  const y = point.subarray(1 + curve.bytes).toString('base64url')
  try {
    createPublicKey({ key: { kty: 'EC', crv: curve.jwk, x, y }, format: 'jwk' })
  } catch {
    refuse('the point is not on the curve')
  }
}

const checkApplication = (reader: SshReader): void => {
  if (!/^[\x21-\x7e]{1,256}$/.test(reader.string().toString('latin1'))) refuse('the application name is malformed')
}

/** A positive number as SSH writes it: no superfluous zero in front, top bit clear. */
const positiveNumber = (bytes: Buffer): Buffer => {
  const [first = 0, second = 0] = bytes
  if (bytes.length === 0 || first >= 0x80) refuse('a number in the key is not positive')
  if (first !== 0) return bytes
  return second >= 0x80 ? bytes.subarray(1) : refuse('a number in the key is not in its shortest form')
}

const bitLength = (bytes: Buffer): number => bytes.length * 8 - Math.clz32(bytes[0] ?? 0) + 24

const checkRsa = (reader: SshReader): void => {
  const exponent = positiveNumber(reader.string())
  const modulus = positiveNumber(reader.string())
  const odd = (bytes: Buffer) => ((bytes.at(-1) ?? 0) & 1) === 1
  if (!odd(exponent) || bitLength(exponent) < 2 || bitLength(exponent) > 64) refuse('the RSA exponent is unsound')
  if (bitLength(modulus) < MIN_RSA_BITS) refuse(`an RSA key needs at least ${MIN_RSA_BITS} bits`)
  if (bitLength(modulus) > MAX_RSA_BITS || !odd(modulus)) refuse('the RSA modulus is unsound')
}

const CHECKS: Readonly<Record<string, (reader: SshReader) => void>> = {
  'ssh-ed25519': checkEd25519,
  'ssh-rsa': checkRsa,
  'ecdsa-sha2-nistp256': (reader) => checkCurvePoint('nistp256', reader),
  'ecdsa-sha2-nistp384': (reader) => checkCurvePoint('nistp384', reader),
  'ecdsa-sha2-nistp521': (reader) => checkCurvePoint('nistp521', reader),
  'sk-ssh-ed25519@openssh.com': (reader) => {
    checkEd25519(reader)
    checkApplication(reader)
  },
  'sk-ecdsa-sha2-nistp256@openssh.com': (reader) => {
    checkCurvePoint('nistp256', reader)
    checkApplication(reader)
  },
}

const splitLine = (text: string): { type: string; blob: Buffer } => {
  if (text.length > MAX_INPUT) refuse('too long for a public key')
  if (/PRIVATE KEY/.test(text)) refuse('this is a private key; send the public half (the .pub file)')
  const line = text.trim()
  if (/[\r\n\0]/.test(line)) refuse('one key on one line is expected')
  const [type = '', base64 = ''] = line.split(/[ \t]+/)
  if (/-cert-v0\d@openssh\.com$/.test(type)) refuse('this is a certificate; send the plain public key')
  if (!Object.hasOwn(CHECKS, type)) refuse('unknown key type; use ed25519, ECDSA, a security key, or RSA')
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(base64)) refuse('the second field is not base64')
  const blob = Buffer.from(base64, 'base64')
  if (blob.toString('base64') !== base64) refuse('the second field is not base64 in its usual form')
  return { type, blob }
}

/**
 * Reads a person's SSH public key wholly and writes it anew as `type base64`: options, comments and anything that
 * hides behind them never reach a server.
 */
export const parsePublicKey = (text: string): ParsedKey => {
  try {
    const { type, blob } = splitLine(text)
    const reader = new SshReader(blob)
    if (reader.string().toString('latin1') !== type) refuse('the key inside is of another type')
    CHECKS[type]?.(reader)
    if (!reader.atEnd()) refuse('there is something after the end of the key')
    return { ok: true, key: `${type} ${blob.toString('base64')}` }
  } catch (error) {
    if (error instanceof Refused || error instanceof RangeError) return { ok: false, problem: error.message }
    throw error
  }
}
