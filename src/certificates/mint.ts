/**
 * Signing people's public keys for one grant, and reading back what was signed.
 *
 * What lives here: the writer of certificates and its independent re-reader. What may enter: a public key, a grant's id
 * and its times. What never leaves: the private half of the authority that signed, which lives for one function call.
 * Nothing here knows about jobs, hosts or files.
 *
 * The blob is written with node:crypto because sshpk's own writer (1.18.0) starts half of its certificates in the
 * future and signs RSA with SHA-1; sshpk is used to read back, so that writer and reader share no code.
 */
import { generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto'
import { JobError } from '../host/errors.ts'
import { type PublicKey, PublicKeyError, parsePublicKey } from '../protocol/public-key.ts'
import { sshString, uint32, uint64 } from '../protocol/ssh-wire.ts'
import { checkMinted } from './reread.ts'

/** Covers clocks that differ a little, and sshd's whole seconds. */
const BACKDATE_MS = 60_000
const USER_CERTIFICATE = 1

export interface MintRequest {
  /** Becomes the key id, the only principal and the comment. */
  readonly grantId: string
  /** The person's key, `type base64`. */
  readonly publicKey: string
  /** Milliseconds since 1970. */
  readonly notBefore: number
  readonly notAfter: number
  readonly now: number
}

export interface MintedCertificate {
  /** One line: `type base64 grantId`. */
  readonly certificate: string
  /** `ssh-ed25519 base64`: the only authority that this certificate will ever be valid under. */
  readonly authority: string
  /** RFC 3339, whole seconds. */
  readonly validAfter: string
  readonly validBefore: string
}

interface Validity {
  /** Seconds since 1970. */
  readonly after: number
  readonly before: number
}

const seconds = (ms: number): number => Math.floor(ms / 1000)

const validityOf = (request: MintRequest): Validity => {
  const validity = {
    after: seconds(Math.max(request.notBefore, request.now) - BACKDATE_MS),
    before: seconds(request.notAfter),
  }
  if (validity.before <= seconds(request.now)) {
    throw new JobError('expired', 'the end of the grant has passed: no certificate was made')
  }
  return validity
}

/** sk types carry their vendor suffix in the middle: `sk-ssh-ed25519-cert-v01@openssh.com`. */
const certificateType = (keyType: string): string => `${keyType.replace('@openssh.com', '')}-cert-v01@openssh.com`

const authorityBlob = (authority: KeyObject): Buffer => {
  const { x = '' } = authority.export({ format: 'jwk' })
  return Buffer.concat([sshString('ssh-ed25519'), sshString(Buffer.from(x, 'base64url'))])
}

/** PROTOCOL.certkeys of OpenSSH, field by field. */
const toBeSigned = (grantId: string, subject: PublicKey, validity: Validity, authority: Buffer): Buffer =>
  Buffer.concat([
    sshString(certificateType(subject.type)),
    sshString(randomBytes(32)),
    subject.fields,
    randomBytes(8), // Serial: 64 random bits. Nothing is revoked by serial; it tells two certificates of one grant apart.
    uint32(USER_CERTIFICATE),
    sshString(grantId),
    sshString(sshString(grantId)), // The list of principals, with exactly one.
    uint64(BigInt(validity.after)),
    uint64(BigInt(validity.before)),
    sshString(''), // Critical options: none.
    sshString(Buffer.concat([sshString('permit-pty'), sshString('')])),
    sshString(''), // Reserved.
    sshString(authority),
  ])

const signature = (data: Buffer, key: KeyObject): Buffer =>
  sshString(Buffer.concat([sshString('ssh-ed25519'), sshString(sign(null, data, key))]))

const readSubject = (line: string): PublicKey => {
  try {
    return parsePublicKey(line)
  } catch (error) {
    if (error instanceof PublicKeyError) throw new JobError('invalid_grant', `publicKey: ${error.message}`)
    throw error
  }
}

const isoSeconds = (value: number): string => new Date(value * 1000).toISOString()

/**
 * Makes an authority for this one grant, signs one certificate with it and forgets the private half: it never leaves
 * this function, so there is no signing key to steal and no second certificate can ever match the trust line.
 *
 * What was made is read back by other code before it is handed out. Randomness is node:crypto's and cannot be
 * injected: a test's generator must never be able to sign for real.
 *
 * Fails with `invalid_grant` (the key), `expired` (nothing left to be valid for) or `internal_error` (the re-read).
 */
export const mintCertificate = (request: MintRequest): MintedCertificate => {
  const subject = readSubject(request.publicKey)
  const validity = validityOf(request)
  const pair = generateKeyPairSync('ed25519')
  const authority = authorityBlob(pair.publicKey)
  const body = toBeSigned(request.grantId, subject, validity, authority)
  const blob = Buffer.concat([body, signature(body, pair.privateKey)])
  const minted = {
    certificate: `${certificateType(subject.type)} ${blob.toString('base64')} ${request.grantId}`,
    authority: `ssh-ed25519 ${authority.toString('base64')}`,
    validAfter: isoSeconds(validity.after),
    validBefore: isoSeconds(validity.before),
  }
  checkMinted(minted, { ...request, publicKey: subject.line, ...validity })
  return minted
}
