import { createDecipheriv, timingSafeEqual } from 'node:crypto'

/**
 * `chacha20-poly1305@openssh.com` as OpenSSH encrypts a key file with it (PROTOCOL.chacha20poly1305): sequence number 0,
 * no length field, the first half of the key for everything. It is not the AEAD of RFC 8439, which pads what it
 * authenticates, so that OpenSSL offers the cipher but not the tag.
 */

const PRIME = (1n << 130n) - 5n
const CLAMP = 0x0ffffffc0ffffffc0ffffffc0fffffffn

const littleEndian = (bytes: Buffer): bigint => BigInt(`0x${Buffer.from(bytes).reverse().toString('hex') || '0'}`)

/** RFC 8439, section 2.5. Not in constant time: it runs once over a file that nobody can change meanwhile. */
export const poly1305 = (key: Buffer, message: Buffer): Buffer => {
  const r = littleEndian(key.subarray(0, 16)) & CLAMP
  let sum = 0n
  for (let at = 0; at < message.length; at += 16) {
    const block = message.subarray(at, at + 16)
    sum = ((sum + littleEndian(block) + (1n << BigInt(8 * block.length))) * r) % PRIME
  }
  const tag = (sum + littleEndian(key.subarray(16, 32))) & ((1n << 128n) - 1n)
  return Buffer.from(tag.toString(16).padStart(32, '0'), 'hex').reverse()
}

/** What the block counter begins with; the nonce after it, the sequence number, is 0. */
const chacha20 = (key: Buffer, block: number, data: Buffer): Buffer => {
  const iv = Buffer.alloc(16)
  iv[0] = block
  return createDecipheriv('chacha20', key, iv).update(data)
}

/** `null` when the tag does not fit. */
export const openChachaPoly = (key: Buffer, encrypted: Buffer, tag: Buffer): Buffer | null => {
  const main = key.subarray(0, 32)
  const expected = poly1305(chacha20(main, 0, Buffer.alloc(32)), encrypted)
  if (tag.length !== expected.length || !timingSafeEqual(tag, expected)) return null
  return chacha20(main, 1, encrypted)
}
