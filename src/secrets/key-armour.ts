import { JobError } from '../host/errors.ts'

/** A private key's text, rebuilt so that every parser takes it. */
export interface ArmouredKey {
  /** What stands between `-----BEGIN ` and `-----`. */
  readonly label: string
  readonly text: string
  /** Whether a passphrase is needed. */
  readonly encrypted: boolean
}

const malformed = (message: string, detail: string): JobError => new JobError('secret_malformed', message, { detail })

const STORE_AGAIN = 'Store the output of: cat /PATH-TO-KEY/key.pem | base64'
/** People wrap twice by accident (a tool that encodes, fed by hand with base64), never more. */
const MAX_LAYERS = 3
const OPENSSH_MAGIC = 'openssh-key-v1\0'
const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/

const tidy = (text: string): string =>
  text
    .replace(/^\uFEFF/, '')
    .replaceAll('\\r', '')
    .replaceAll('\\n', '\n')
    .replace(/\r\n?/g, '\n')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .join('\n')

const CERTIFICATE = /-cert-v01@openssh\.com |-----BEGIN CERTIFICATE-----/
const PUBLIC_KEY = /^(?:ssh-|ecdsa-|sk-)\S+ AAAA|-----BEGIN (?:RSA )?PUBLIC KEY-----|---- BEGIN SSH2 PUBLIC KEY ----/m
const PUTTY = /^PuTTY-User-Key-File-\d/m

/** What people paste instead of a private key, each with the command that helps. */
const refuseOtherThings = (text: string): void => {
  if (CERTIFICATE.test(text)) throw malformed('the secret holds a certificate, not a private key', STORE_AGAIN)
  if (/-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----/.test(text)) return
  if (PUBLIC_KEY.test(text)) throw malformed('the secret holds a public key, not a private key', STORE_AGAIN)
  if (PUTTY.test(text)) {
    throw malformed(
      'the secret holds a PuTTY key (.ppk)',
      'Convert it: puttygen key.ppk -O private-openssh -o key, then store the output of: base64 key',
    )
  }
}

/** A key file whose BEGIN and END lines got lost still says what it is in its first bytes. */
const restoreArmour = (bytes: Buffer): string | null =>
  bytes.subarray(0, OPENSSH_MAGIC.length).toString('latin1') === OPENSSH_MAGIC
    ? `-----BEGIN OPENSSH PRIVATE KEY-----\n${bytes.toString('base64')}\n-----END OPENSSH PRIVATE KEY-----`
    : null

const isUtf16 = (bytes: Buffer): boolean => bytes[0] === 0xff && bytes[1] === 0xfe

const decodeLayer = (text: string): string | null => {
  const joined = text.replaceAll(/[\s"']/g, '')
  if (!BASE64.test(joined)) return null
  const bytes = Buffer.from(joined, 'base64')
  return restoreArmour(bytes) ?? bytes.toString(isUtf16(bytes) ? 'utf16le' : 'utf8')
}

const peel = (stored: string): string => {
  let text = tidy(stored)
  for (let layer = 0; layer < MAX_LAYERS; layer++) {
    refuseOtherThings(text)
    if (text.includes('-----BEGIN')) return text
    const inner = decodeLayer(text)
    if (inner === null) break
    text = tidy(inner)
  }
  refuseOtherThings(text)
  if (text.includes('-----BEGIN')) return text
  throw malformed('the secret holds no private key: no BEGIN line was found in it', STORE_AGAIN)
}

const wrap = (body: string): string => body.match(/.{1,64}/g)?.join('\n') ?? ''

const ENVELOPE = /-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----([\s\S]*?)-----END \1-----/
const LEGACY_HEADER = /Proc-Type:\s*4,ENCRYPTED\s+DEK-Info:\s*([A-Za-z0-9-]+),\s*([0-9A-Fa-f]+)/

/** OpenSSH's file names its cipher right after the magic; `none` means that it is in the clear. */
const isEncryptedOpenSsh = (body: string): boolean => {
  const bytes = Buffer.from(body, 'base64')
  const at = OPENSSH_MAGIC.length
  if (bytes.length < at + 8) return false
  const length = bytes.readUInt32BE(at)
  return bytes.subarray(at + 4, at + 4 + length).toString('latin1') !== 'none'
}

const rebuild = (label: string, inside: string): ArmouredKey => {
  const legacy = LEGACY_HEADER.exec(inside)
  const body = inside.replace(LEGACY_HEADER, '').replaceAll(/\s/g, '')
  if (!BASE64.test(body)) {
    throw malformed(`the private key (${label}) is damaged between its BEGIN and END lines`, STORE_AGAIN)
  }
  const header = legacy ? `Proc-Type: 4,ENCRYPTED\nDEK-Info: ${legacy[1]},${legacy[2]}\n\n` : ''
  return {
    label,
    text: `-----BEGIN ${label}-----\n${header}${wrap(body)}\n-----END ${label}-----\n`,
    encrypted:
      legacy !== null ||
      label === 'ENCRYPTED PRIVATE KEY' ||
      (label === 'OPENSSH PRIVATE KEY' && isEncryptedOpenSsh(body)),
  }
}

/**
 * Finds the private key in what was stored and rebuilds its text: byte order mark, carriage returns, indentation,
 * literal `\n` and up to three layers of base64 are taken off, a body on one line is wrapped again.
 * Fails with `secret_malformed`.
 */
export const findArmour = (stored: string): ArmouredKey => {
  const envelope = ENVELOPE.exec(peel(stored))
  const [, label, inside] = envelope ?? []
  if (label === undefined || inside === undefined) {
    throw malformed('the private key is cut off: its BEGIN line has no matching END line', STORE_AGAIN)
  }
  return rebuild(label, inside)
}
