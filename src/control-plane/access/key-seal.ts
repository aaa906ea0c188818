import { createCipheriv, createDecipheriv } from 'node:crypto'
import type { Random } from '../../observability/random.ts'

/** Keeps a private key unreadable in the database until it is shown once. */
export interface KeySeal {
  /** `context` (the grant's id) must be the same for both, so that a sealed key can't be moved to another grant. */
  seal(secret: string, context: string): string
  open(sealed: string, context: string): string
}

const NONCE_BYTES = 12
const TAG_BYTES = 16
export const SEAL_KEY_BYTES = 32

/** AES-256-GCM: `v1.` and base64url of nonce, tag, ciphertext. */
export const createKeySeal = (key: Buffer, random: Random): KeySeal => ({
  seal: (secret, context) => {
    const nonce = random(NONCE_BYTES)
    const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(Buffer.from(context))
    const body = Buffer.concat([cipher.update(secret, 'utf8'), cipher.final()])
    return `v1.${Buffer.concat([nonce, cipher.getAuthTag(), body]).toString('base64url')}`
  },
  open: (sealed, context) => {
    const bytes = Buffer.from(sealed.replace(/^v1\./, ''), 'base64url')
    const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, NONCE_BYTES), { authTagLength: TAG_BYTES })
      .setAAD(Buffer.from(context))
      .setAuthTag(bytes.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES))
    return decipher.update(bytes.subarray(NONCE_BYTES + TAG_BYTES), undefined, 'utf8') + decipher.final('utf8')
  },
})
