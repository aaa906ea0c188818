import { isUtf8 } from 'node:buffer'
import { z } from 'zod'
import { JobError } from '../host/errors.ts'
import { type Secret, secretOf } from './secret.ts'

/** A private key as somebody stored it: usually base64 of a key file, but people store all sorts of things. */
export interface StoredKey {
  readonly privateKey: Secret
  readonly passphrase?: Secret
}

/** What a store holds for one integration. Whoever reads it disposes of it. */
export interface SecretMaterial extends StoredKey {
  /** The key that takes the place of this one, while both are on servers. */
  readonly next?: StoredKey
  /** Changes whenever the content does; says nothing about it. */
  readonly version: string
}

const disposeKey = ({ privateKey, passphrase }: StoredKey): void => {
  privateKey.dispose()
  passphrase?.dispose()
}

export const disposeMaterial = (material: SecretMaterial): void => {
  disposeKey(material)
  if (material.next !== undefined) disposeKey(material.next)
}

/** Forms leave empty what nobody filled in. */
const Optional = z
  .string()
  .optional()
  .transform((text) => text || undefined)
const Stored = z.object({
  base64_private_key: z.string().min(1),
  passphrase: Optional,
  base64_private_key_next: Optional,
  /** Without it the next key has the passphrase of the current one. */
  passphrase_next: Optional,
})

const EXPECTED = 'expected a JSON object with the string base64_private_key'

const HOW_TO_STORE =
  'Store {"base64_private_key": "..."}; its value is the output of: cat /PATH-TO-KEY/key.pem | base64'

const malformed = (found: string): JobError =>
  new JobError('secret_malformed', `${EXPECTED}, found ${found}`, { detail: HOW_TO_STORE })

/** What a secret without JSON in it is likely to be, in words of our own. */
const kindOfText = (text: string): string => {
  if (text.trim() === '') return 'nothing'
  if (/PRIVATE KEY|PuTTY-User-Key-File/.test(text)) return 'a private key by itself'
  if (/^\s*(?:ssh-|ecdsa-|sk-)/.test(text)) return 'a public key by itself'
  if (/^\s*[{[]/.test(text)) return 'text that begins like JSON and is none'
  return /^[\sA-Za-z0-9+/_=-]+$/.test(text) ? 'one word, perhaps base64 of a key by itself' : 'text that is not JSON'
}

/** Members that people use instead. Any other name may be a secret, and is not told. */
const OTHER_NAMES = ['private_key', 'privateKey', 'base64PrivateKey', 'base64_key', 'key', 'ssh_key', 'pem']

const kindOfValue = (value: unknown): string => {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'a list'
  if (typeof value !== 'object') return `a ${typeof value}`
  const key = (value as Record<string, unknown>)['base64_private_key']
  if (key === '') return 'an object whose base64_private_key is empty'
  if (key === undefined) {
    const other = OTHER_NAMES.find((name) => name in value)
    return other === undefined ? 'an object without it' : `an object without it, but with ${other}`
  }
  if (typeof key !== 'string') return 'an object whose base64_private_key is not a string'
  return 'an object with a passphrase or next key that is not a string'
}

/** JSON.parse quotes what it could not read, and that would be the secret: its message is dropped on purpose. */
const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    throw malformed(kindOfText(text))
  }
}

const keyOf = (key: string, passphrase: string | undefined): StoredKey => ({
  privateKey: secretOf(key),
  ...(passphrase === undefined ? {} : { passphrase: secretOf(passphrase) }),
})

/**
 * Of the members that a store gave by name. Zod's messages are not used: what they quote is not ours to choose. Fails
 * with `secret_malformed`, which says what kind of thing was found and never the thing.
 */
export const materialOfFields = (fields: unknown, version: string): SecretMaterial => {
  const stored = Stored.safeParse(fields)
  if (!stored.success) throw malformed(kindOfValue(fields))
  const { base64_private_key: key, passphrase, base64_private_key_next: next, passphrase_next } = stored.data
  return {
    ...keyOf(key, passphrase),
    ...(next === undefined ? {} : { next: keyOf(next, passphrase_next ?? passphrase) }),
    version,
  }
}

/** Of the JSON text that most stores hold, as a string or as its bytes in UTF-8. Fails as {@link materialOfFields} does. */
export const materialOf = (content: string | Uint8Array, version: string): SecretMaterial => {
  if (typeof content === 'string') return materialOfFields(parseJson(content), version)
  if (!isUtf8(content)) throw malformed('binary data')
  return materialOfFields(parseJson(Buffer.from(content).toString('utf8')), version)
}
