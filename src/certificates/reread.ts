import { createPublicKey, verify } from 'node:crypto'
import sshpk from 'sshpk'
import { JobError } from '../host/errors.ts'
import { sshString, type WireReader, wireReader } from '../protocol/ssh-wire.ts'

/** Everything that a certificate says, as the re-reader understood it. */
export interface CertificateFacts {
  readonly type: string
  readonly subject: string
  readonly serial: bigint
  readonly kind: number
  readonly keyId: string
  readonly principals: readonly string[]
  /** Seconds since 1970. */
  readonly after: number
  readonly before: number
  readonly criticalOptions: readonly string[]
  readonly extensions: readonly string[]
  readonly authority: string
  readonly signedByAuthority: boolean
}

/** How many length-prefixed fields stand for the key itself in each type of certificate. */
const KEY_FIELDS: ReadonlyMap<string, number> = new Map([
  ['ssh-ed25519-cert-v01@openssh.com', 1],
  ['ssh-rsa-cert-v01@openssh.com', 2],
  ['ecdsa-sha2-nistp256-cert-v01@openssh.com', 2],
  ['ecdsa-sha2-nistp384-cert-v01@openssh.com', 2],
  ['ecdsa-sha2-nistp521-cert-v01@openssh.com', 2],
  ['sk-ssh-ed25519-cert-v01@openssh.com', 2],
  ['sk-ecdsa-sha2-nistp256-cert-v01@openssh.com', 3],
])

const plainType = (type: string): string => {
  const plain = type.replace('-cert-v01@openssh.com', '')
  return plain.startsWith('sk-') ? `${plain}@openssh.com` : plain
}

const listOf = (packed: Buffer, read: (reader: WireReader) => string): string[] => {
  const reader = wireReader(packed)
  const list: string[] = []
  while (!reader.isAtEnd()) list.push(read(reader))
  return list
}

const option = (reader: WireReader): string => {
  const name = reader.text()
  const data = reader.bytes()
  return data.length === 0 ? name : `${name}=${data.toString('base64')}`
}

const readSubject = (type: string, reader: WireReader): string => {
  const count = KEY_FIELDS.get(type)
  if (count === undefined) throw new Error('a type of certificate that we do not make')
  const fields = Array.from({ length: count }, () => sshString(reader.bytes()))
  const plain = plainType(type)
  return `${plain} ${Buffer.concat([sshString(plain), ...fields]).toString('base64')}`
}

const verifySignature = (data: Buffer, authority: Buffer, signature: Buffer): boolean => {
  const key = wireReader(authority)
  const signed = wireReader(signature)
  if (key.text() !== 'ssh-ed25519' || signed.text() !== 'ssh-ed25519') return false
  const jwk = { kty: 'OKP', crv: 'Ed25519', x: key.bytes().toString('base64url') }
  return verify(null, data, createPublicKey({ key: jwk, format: 'jwk' }), signed.bytes())
}

/** Reads a certificate line with nothing of the writer's but the field framing. Throws when it is not one of ours. */
export const readCertificate = (line: string): CertificateFacts => {
  const [type = '', base64 = ''] = line.split(' ')
  const blob = Buffer.from(base64, 'base64')
  const reader = wireReader(blob)
  if (reader.text() !== type) throw new Error('the type in the certificate differs from the one before it')
  reader.bytes() // The nonce.
  const subject = readSubject(type, reader)
  const serial = reader.uint64()
  const kind = reader.uint32()
  const keyId = reader.text()
  const principals = listOf(reader.bytes(), (inner) => inner.text())
  const after = Number(reader.uint64())
  const before = Number(reader.uint64())
  const criticalOptions = listOf(reader.bytes(), option)
  const extensions = listOf(reader.bytes(), option)
  reader.bytes() // Reserved.
  const authority = reader.bytes()
  const signed = blob.subarray(0, blob.length - reader.rest().length)
  const signedByAuthority = verifySignature(signed, authority, reader.bytes())
  if (!reader.isAtEnd()) throw new Error('bytes after the end of the certificate')
  return {
    type,
    subject,
    serial,
    kind,
    keyId,
    principals,
    after,
    before,
    criticalOptions,
    extensions,
    authority: `ssh-ed25519 ${authority.toString('base64')}`,
    signedByAuthority,
  }
}

export interface Expected {
  readonly grantId: string
  readonly publicKey: string
  readonly after: number
  readonly before: number
}

interface Minted {
  readonly certificate: string
  readonly authority: string
}

const isOnly = (list: readonly string[], value: string): boolean => list.length === 1 && list[0] === value

const ownChecks = (minted: Minted, expected: Expected): Record<string, boolean> => {
  const facts = readCertificate(minted.certificate)
  return {
    subject: facts.subject === expected.publicKey,
    kind: facts.kind === 1,
    'key id': facts.keyId === expected.grantId,
    principals: isOnly(facts.principals, expected.grantId),
    'valid after': facts.after === expected.after,
    'valid before': facts.before === expected.before,
    'critical options': facts.criticalOptions.length === 0,
    extensions: isOnly(facts.extensions, 'permit-pty'),
    authority: facts.authority === minted.authority,
    signature: facts.signedByAuthority,
  }
}

/** A reader that shares nothing with our writer. It does not know hardware keys (sshpk 1.18.0). */
const sshpkChecks = (minted: Minted, expected: Expected): Record<string, boolean> => {
  if (minted.certificate.startsWith('sk-')) return {}
  const certificate = sshpk.parseCertificate(minted.certificate, 'openssh')
  const [subject] = certificate.subjects
  return {
    'subject (sshpk)': expected.publicKey === certificate.subjectKey.toString('ssh').split(' ', 2).join(' '),
    'key id (sshpk)': certificate.signatures.openssh?.keyId === expected.grantId,
    'principals (sshpk)': certificate.subjects.length === 1 && subject?.uid === expected.grantId,
    'times (sshpk)':
      certificate.validFrom.getTime() === expected.after * 1000 &&
      certificate.validUntil.getTime() === expected.before * 1000,
    'signature (sshpk)': certificate.isSignedByKey(sshpk.parseKey(minted.authority, 'ssh')),
  }
}

/**
 * Reads what was minted back and refuses to hand out what does not say exactly what was asked for
 * (`internal_error`, which names the fields and no values).
 */
export const checkMinted = (minted: Minted, expected: Expected): void => {
  const checks = { ...ownChecks(minted, expected), ...sshpkChecks(minted, expected) }
  const wrong = Object.keys(checks).filter((name) => checks[name] === false)
  if (wrong.length > 0) {
    throw new JobError('internal_error', `the certificate that was made reads back differently: ${wrong.join(', ')}`)
  }
}
