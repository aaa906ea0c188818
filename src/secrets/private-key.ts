import { createHash } from 'node:crypto'
import ssh2, { type ParsedKey } from 'ssh2'
import { type FoundKey, findKey } from './key-armour.ts'
import { damaged, type KeyFormat, passphraseMissing } from './key-errors.ts'
import type { KeyOpener } from './key-opener.ts'
import type { StoredKey } from './material.ts'
import { openKey } from './open-key.ts'

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

/** ssh2 only ever sees what `writeOpenSsh` wrote. */
const toParsed = (opened: Buffer, format: KeyFormat): ParsedKey => {
  const label = 'OPENSSH PRIVATE KEY'
  const text = `-----BEGIN ${label}-----\n${opened.toString('base64')}\n-----END ${label}-----\n`
  const parsed = [ssh2.utils.parseKey(text)].flat()[0]
  if (parsed === undefined || parsed instanceof Error || !parsed.isPrivateKey()) throw damaged(format)
  return parsed
}

/** What ssh2 has read, with its names. */
export const loginKeyOf = (parsed: ParsedKey): LoginKey => {
  const blob = parsed.getPublicSSH()
  const digest = createHash('sha256').update(blob).digest('base64').slice(0, 43)
  return {
    parsed,
    type: parsed.type,
    fingerprint: `SHA256:${digest}`,
    publicLine: `${parsed.type} ${blob.toString('base64')}`,
  }
}

const openEncrypted = (key: FoundKey, material: StoredKey, opener: Pick<KeyOpener, 'open'>): Promise<Buffer> => {
  if (material.passphrase === undefined) throw passphraseMissing(key.format)
  const passphrase = Buffer.from(material.passphrase.reveal(), 'utf8')
  const opening = opener.open(key, passphrase)
  passphrase.fill(0)
  return opening
}

/**
 * Makes a usable key of whatever was stored: OpenSSH, PKCS#1, SEC1, PKCS#8 or PuTTY, encrypted or not, wrapped in base64
 * once or twice, with Windows line ends, indentation or its line breaks lost. Fails with `secret_malformed`, which names
 * the format that was seen and the command that converts it, and never what it contained; and as `opener` does.
 *
 * A key in the clear is read here, in a few milliseconds; one that is encrypted in a worker, however long it takes.
 * Everything is taken out of `material` before the promise is returned: whoever gave it may dispose of it.
 */
export const openPrivateKey = async (material: StoredKey, opener: Pick<KeyOpener, 'open'>): Promise<LoginKey> => {
  const key = findKey(material.privateKey.reveal())
  let opened: Buffer | undefined
  try {
    opened = key.encrypted ? await openEncrypted(key, material, opener) : openKey(key, undefined)
    return loginKeyOf(toParsed(opened, key.format))
  } finally {
    key.bytes.fill(0)
    opened?.fill(0)
  }
}
