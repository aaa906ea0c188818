import type { Algorithms, ServerHostKeyAlgorithm } from 'ssh2'

/**
 * ssh2's defaults still hold ssh-rsa, hmac-sha1 and zlib (1.17.0), so the lists are ours. Order is preference.
 * No diffie-hellman-group-exchange: ssh2 takes whatever prime a server sends, before that has proved its key, and to
 * look whether 8192 bits are prime holds up the whole process for 25 s. There is no post-quantum key exchange: a server
 * that offers nothing else is out of reach.
 */
const BASE = {
  kex: [
    'curve25519-sha256',
    'curve25519-sha256@libssh.org',
    'ecdh-sha2-nistp256',
    'ecdh-sha2-nistp384',
    'ecdh-sha2-nistp521',
    'diffie-hellman-group16-sha512',
    'diffie-hellman-group18-sha512',
    'diffie-hellman-group14-sha256',
  ],
  cipher: [
    'aes128-gcm@openssh.com',
    'aes256-gcm@openssh.com',
    'chacha20-poly1305@openssh.com',
    'aes128-ctr',
    'aes192-ctr',
    'aes256-ctr',
  ],
  hmac: ['hmac-sha2-256-etm@openssh.com', 'hmac-sha2-512-etm@openssh.com', 'hmac-sha2-256', 'hmac-sha2-512'],
  compress: ['none'],
} satisfies Algorithms

const HOST_KEYS: readonly ServerHostKeyAlgorithm[] = [
  'ssh-ed25519',
  'ecdsa-sha2-nistp256',
  'ecdsa-sha2-nistp384',
  'ecdsa-sha2-nistp521',
  'rsa-sha2-512',
  'rsa-sha2-256',
]

/** An RSA key is named by its format, the negotiation by its signature. */
const formatOf = (algorithm: ServerHostKeyAlgorithm): string =>
  algorithm.startsWith('rsa-sha2-') ? 'ssh-rsa' : algorithm

/**
 * With known keys only their types are offered: otherwise the server may choose to prove another key, which is just
 * as much its own, and would look like a changed one.
 *
 * Where only types are known that nobody here can check (ssh-dss, sk-*), any may be shown, to be refused with its name:
 * ssh2 takes an empty list for its own defaults.
 */
export const algorithmsFor = (knownTypes: readonly string[]): Algorithms => {
  const known = HOST_KEYS.filter((algorithm) => knownTypes.includes(formatOf(algorithm)))
  return { ...BASE, serverHostKey: known.length > 0 ? known : [...HOST_KEYS] }
}
