import { createHash, createPrivateKey, type KeyObject } from 'node:crypto'
import ssh2, { type ParsedKey } from 'ssh2'
import sshpk from 'sshpk'
import { JobError } from '../host/errors.ts'
import { type ArmouredKey, findArmour } from './key-armour.ts'
import type { SecretMaterial } from './secret-store.ts'

/** A key that can log in. It holds the private half in memory; `key-cache.ts` says for how long. */
export interface LoginKey {
  /** For ssh2's `authHandler`; its `privateKey` option silently ignores a parsed key. */
  readonly parsed: ParsedKey
  readonly type: string
  /** `SHA256:…` as `ssh-keygen -l` prints it. */
  readonly fingerprint: string
  /** `type base64` of the public half: the line that belongs in authorized_keys. */
  readonly publicLine: string
}

const malformed = (message: string, detail: string): JobError => new JobError('secret_malformed', message, { detail })

const REWRITE = 'ssh-keygen -p -m PEM -f key   (asks for the old passphrase; leave the new one empty)'

const wrongPassphrase = (given: boolean): JobError =>
  given
    ? malformed('the passphrase does not open the private key', 'Correct the passphrase in the secret.')
    : malformed(
        'the private key is encrypted and the secret has no passphrase',
        `Add "passphrase" to the secret, or remove the encryption: ${REWRITE}`,
      )

/**
 * PEM and PKCS#8 go through node:crypto, encrypted or not: sshpk throws on a wrong passphrase and then crashes the
 * process with an uncaught stream error (sshpk 1.18.0), and ssh2 1.17.0 does not read PKCS#8 at all.
 */
const readPem = (key: ArmouredKey, passphrase: string | undefined): KeyObject => {
  try {
    return createPrivateKey({ key: key.text, format: 'pem', ...(passphrase === undefined ? {} : { passphrase }) })
  } catch {
    if (key.encrypted) throw wrongPassphrase(passphrase !== undefined)
    throw malformed(
      `the private key (${key.label}) cannot be read`,
      'The text between its BEGIN and END lines is damaged; store it again: base64 key.pem',
    )
  }
}

/** sshpk only ever sees a key in the clear, and only to write the one format that ssh2 reads for every type. */
const toOpenSsh = (key: KeyObject): string => {
  const pkcs8 = key.export({ type: 'pkcs8', format: 'pem' })
  try {
    return sshpk.parsePrivateKey(pkcs8, 'pkcs8').toString('openssh')
  } catch {
    throw malformed(
      `a private key of type ${key.asymmetricKeyType ?? 'unknown'} cannot be used for SSH`,
      'Use an Ed25519, ECDSA (P-256, P-384, P-521) or RSA key: ssh-keygen -t ed25519 -f key',
    )
  }
}

const parseOpenSsh = (text: string, encrypted: boolean, passphrase: string | undefined): ParsedKey => {
  const parsed = ssh2.utils.parseKey(text, passphrase)
  if (!(parsed instanceof Error)) return Array.isArray(parsed) ? firstOf(parsed) : parsed
  if (encrypted) throw /cipher/i.test(parsed.message) ? unsupportedCipher() : wrongPassphrase(passphrase !== undefined)
  throw malformed(
    'the private key (OPENSSH PRIVATE KEY) cannot be read',
    'It is damaged or of a type that is not supported; store it again, or make a new one: ssh-keygen -t ed25519 -f key',
  )
}

const unsupportedCipher = (): JobError =>
  malformed('the private key is encrypted with a cipher that is not supported', `Remove the encryption: ${REWRITE}`)

const firstOf = (keys: readonly ParsedKey[]): ParsedKey => {
  const [first] = keys
  if (first === undefined) throw malformed('the secret holds no key', 'Store the private key again.')
  return first
}

const parseArmoured = (key: ArmouredKey, passphrase: string | undefined): ParsedKey =>
  key.label === 'OPENSSH PRIVATE KEY'
    ? parseOpenSsh(key.text, key.encrypted, passphrase)
    : parseOpenSsh(toOpenSsh(readPem(key, passphrase)), false, undefined)

const describe = (parsed: ParsedKey): LoginKey => {
  const blob = parsed.getPublicSSH()
  const digest = createHash('sha256').update(blob).digest('base64').replace(/=+$/, '')
  return {
    parsed,
    type: parsed.type,
    fingerprint: `SHA256:${digest}`,
    publicLine: `${parsed.type} ${blob.toString('base64')}`,
  }
}

/**
 * Makes a usable key of whatever was stored: OpenSSH, PKCS#1, SEC1 or PKCS#8, wrapped in base64 once or twice, with
 * Windows line ends, indentation or its line breaks lost. Fails with `secret_malformed`, which names the format that
 * was seen and the command that converts it, and never what it contained.
 *
 * A key with OpenSSH's own encryption blocks the event loop for 0.3 s (default rounds) while it is opened, which is
 * why jobs go through `key-cache.ts`.
 */
export const parsePrivateKey = (material: Pick<SecretMaterial, 'privateKey' | 'passphrase'>): LoginKey => {
  const key = findArmour(material.privateKey.reveal())
  const parsed = parseArmoured(key, material.passphrase?.reveal())
  if (!parsed.isPrivateKey())
    throw malformed('the secret holds a public key', 'Store the private key, not its .pub file.')
  return describe(parsed)
}
