import { JobError } from '../host/errors.ts'

/** The formats that a private key is read in. What a file is, its bytes decide; the words on its BEGIN line may lie. */
export type KeyFormat = 'openssh' | 'pkcs1' | 'sec1' | 'pkcs8' | 'pkcs8-encrypted' | 'pem-encrypted' | 'putty'

const WITHOUT_ENCRYPTION = 'ssh-keygen -p -m PEM -f key   (asks for the old passphrase; leave the new one empty)'
const OPENSSL = 'openssl pkey -in key.pem -out plain.pem   (asks for the passphrase)'
const PUTTYGEN = 'puttygen key.ppk -O private-openssh -o key'

/** As an admin knows it, and the command that turns it into what everything reads. */
const FORMATS: Readonly<Record<KeyFormat, { readonly name: string; readonly convert: string }>> = {
  openssh: { name: 'OpenSSH', convert: WITHOUT_ENCRYPTION },
  pkcs1: { name: 'PKCS#1, BEGIN RSA PRIVATE KEY', convert: WITHOUT_ENCRYPTION },
  sec1: { name: 'SEC1, BEGIN EC PRIVATE KEY', convert: WITHOUT_ENCRYPTION },
  pkcs8: { name: 'PKCS#8, BEGIN PRIVATE KEY', convert: OPENSSL },
  'pkcs8-encrypted': { name: 'PKCS#8, BEGIN ENCRYPTED PRIVATE KEY', convert: OPENSSL },
  'pem-encrypted': { name: 'PEM with Proc-Type: 4,ENCRYPTED', convert: OPENSSL },
  putty: { name: 'PuTTY, .ppk', convert: PUTTYGEN },
}

export const STORE_AGAIN = 'Store the output of: cat /PATH-TO-KEY/key.pem | base64'

/** Neither `message` nor `detail` is ever made of what the secret holds, only of words that stand in this folder. */
export const malformed = (message: string, detail: string): JobError =>
  new JobError('secret_malformed', message, { detail })

export const passphraseMissing = (format: KeyFormat): JobError =>
  malformed(
    `the private key (${FORMATS[format].name}) is encrypted and the secret has no passphrase`,
    `Add "passphrase" to the secret, or remove the encryption: ${FORMATS[format].convert}`,
  )

export const passphraseWrong = (format: KeyFormat): JobError =>
  malformed(
    `the passphrase does not open the private key (${FORMATS[format].name})`,
    `Correct the passphrase in the secret. If it is right the key is damaged; try it with: ${FORMATS[format].convert}`,
  )

export const damaged = (format: KeyFormat): JobError =>
  malformed(
    `the private key (${FORMATS[format].name}) cannot be read: it is damaged`,
    `${STORE_AGAIN}. To see whether the file itself is good: ${FORMATS[format].convert}`,
  )

export const cutOff = (what: string): JobError =>
  malformed(`the private key (${what}) is cut off: its end is missing`, STORE_AGAIN)

export const cipherUnsupported = (format: KeyFormat): JobError =>
  malformed(
    `the private key (${FORMATS[format].name}) is encrypted with a cipher that is not supported`,
    `Remove the encryption: ${FORMATS[format].convert}`,
  )

/** What the key file itself asks for is more than any tool writes by itself. */
export const tooCostly = (format: KeyFormat, what: string): JobError =>
  malformed(
    `the private key (${FORMATS[format].name}) takes too long to decrypt: ${what}`,
    `Encrypt it with fewer rounds, or remove the encryption: ${FORMATS[format].convert}`,
  )

export const typeUnsupported = (what: string): JobError =>
  malformed(
    `a private key of type ${what} cannot be used for SSH here`,
    'Use an Ed25519, ECDSA (P-256, P-384, P-521) or RSA key: ssh-keygen -t ed25519 -f key',
  )
