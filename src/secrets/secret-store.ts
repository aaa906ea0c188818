import { z } from 'zod'
import { JobError } from '../host/errors.ts'
import type { SecretReference } from '../protocol/integration.ts'
import type { SecretStoreType } from '../protocol/primitives.ts'
import { type Secret, secretOf } from './secret.ts'

/** What a store holds for one integration. Whoever reads it disposes of it. */
export interface SecretMaterial {
  /** As it was stored: usually base64 of a key file, but people store all sorts of things. */
  readonly privateKey: Secret
  readonly passphrase?: Secret
  /** Changes whenever the content does; says nothing about it. */
  readonly version: string
}

export interface ReadOptions {
  /** Ends the read. A store has its own deadline as well. */
  readonly signal?: AbortSignal
}

/**
 * One place that secrets are kept in.
 *
 * `read` fails with a {@link JobError}: `secret_not_found`, `secret_access_denied`, `secret_malformed` or
 * `secret_store_unreachable`. It is never asked for a reference of another type.
 */
export interface SecretStore {
  readonly type: SecretStoreType
  read(reference: SecretReference, options: ReadOptions): Promise<SecretMaterial>
}

export const disposeMaterial = (material: SecretMaterial): void => {
  material.privateKey.dispose()
  material.passphrase?.dispose()
}

const Stored = z.object({ base64_private_key: z.string().min(1), passphrase: z.string().min(1).optional() })

/** JSON.parse quotes what it could not read, and that would be the secret: its message is dropped on purpose. */
const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    throw new JobError('secret_malformed', 'the secret is not JSON')
  }
}

/** Reads the JSON object that every store holds. Zod's own messages name keys and types, never values. */
export const materialOf = (text: string, version: string): SecretMaterial => {
  const stored = Stored.safeParse(parseJson(text))
  if (!stored.success) {
    throw new JobError('secret_malformed', 'the secret is not a JSON object with the string base64_private_key')
  }
  const { base64_private_key: privateKey, passphrase } = stored.data
  return {
    privateKey: secretOf(privateKey),
    ...(passphrase === undefined ? {} : { passphrase: secretOf(passphrase) }),
    version,
  }
}
