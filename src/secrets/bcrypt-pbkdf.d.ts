/** The part of bcrypt-pbkdf 1.0.2 that is used; it comes without types. ssh2 and sshpk bring it along. */
declare module 'bcrypt-pbkdf' {
  const bcrypt: {
    /** Fills `key`. Returns -1 and does nothing for no rounds, no salt, no passphrase or too long a key. */
    readonly pbkdf: (
      passphrase: Uint8Array,
      passphraseLength: number,
      salt: Uint8Array,
      saltLength: number,
      key: Uint8Array,
      keyLength: number,
      rounds: number,
    ) => number
  }
  export default bcrypt
}
