import { JobError } from '../host/errors.ts'
import type { FoundKey } from './key-armour.ts'
import { damaged } from './key-errors.ts'
import { belongTogether, buffersOf, type KeyParts, writeOpenSsh } from './key-parts.ts'
import { readOpenSsh } from './openssh-key.ts'
import { readPem } from './pem-key.ts'
import { readPutty } from './putty-key.ts'

const readParts = (key: FoundKey, passphrase: Buffer | undefined): KeyParts => {
  const { format, bytes } = key
  if (format === 'openssh') return readOpenSsh(bytes, passphrase)
  if (format === 'putty') return readPutty(bytes.toString('utf8'), passphrase)
  return readPem({ ...key, format }, passphrase)
}

/**
 * Takes a key apart, checks that its halves belong together and writes it again, in the clear, in OpenSSH's format.
 *
 * Blocks, for as long as the file wants when it is encrypted: then it runs in a worker (`key-opener.ts`) and nowhere
 * else. Whatever the readers stumble over in a file is the file's fault: it fails with `secret_malformed` and nothing
 * else, and never with words of the file.
 */
export const openKey = (key: FoundKey, passphrase: Buffer | undefined): Buffer => {
  let parts: KeyParts | undefined
  try {
    parts = readParts(key, passphrase)
    if (belongTogether(parts)) return writeOpenSsh(parts)
  } catch (error) {
    if (error instanceof JobError) throw error
  } finally {
    for (const buffer of parts === undefined ? [] : buffersOf(parts)) buffer.fill(0)
  }
  throw damaged(key.format)
}
