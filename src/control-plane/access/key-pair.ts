import { createPrivateKey, createPublicKey } from 'node:crypto'
import type { Random } from '../../observability/random.ts'
import { sshString, uint32 } from '../../protocol/ssh-wire.ts'

/** Everything of a PKCS#8 ed25519 key that comes before its 32-byte seed. */
const PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex')
const TYPE = 'ssh-ed25519'
const BLOCK = 8

export interface KeyPair {
  /** `ssh-ed25519 AAAA…` */
  readonly publicKey: string
  /** As OpenSSH writes it, unencrypted. */
  readonly privateKey: string
}

const publicHalf = (seed: Buffer): Buffer => {
  const key = createPrivateKey({ key: Buffer.concat([PKCS8_PREFIX, seed]), format: 'der', type: 'pkcs8' })
  return Buffer.from(createPublicKey(key).export({ format: 'jwk' }).x ?? '', 'base64url')
}

const padding = (length: number): Buffer =>
  Buffer.from(Array.from({ length: (BLOCK - (length % BLOCK)) % BLOCK }, (_, index) => index + 1))

/** openssh-key-v1: cipher and KDF `none`, one key. */
const opensshBody = (blob: Buffer, publicBytes: Buffer, seed: Buffer, check: Buffer): Buffer => {
  const secret = Buffer.concat([
    check,
    check,
    sshString(TYPE),
    sshString(publicBytes),
    sshString(Buffer.concat([seed, publicBytes])),
    sshString(''),
  ])
  return Buffer.concat([
    Buffer.from('openssh-key-v1\0'),
    sshString('none'),
    sshString('none'),
    sshString(''),
    uint32(1),
    sshString(blob),
    sshString(Buffer.concat([secret, padding(secret.length)])),
  ])
}

const armour = (body: Buffer): string => {
  const lines = body.toString('base64').match(/.{1,70}/g) ?? []
  return ['-----BEGIN OPENSSH PRIVATE KEY-----', ...lines, '-----END OPENSSH PRIVATE KEY-----', ''].join('\n')
}

/** A pair for a person who gave no key of their own. */
export const makeKeyPair = (random: Random): KeyPair => {
  const seed = random(32)
  const publicBytes = publicHalf(seed)
  const blob = Buffer.concat([sshString(TYPE), sshString(publicBytes)])
  return {
    publicKey: `${TYPE} ${blob.toString('base64')}`,
    privateKey: armour(opensshBody(blob, publicBytes, seed, random(4))),
  }
}
