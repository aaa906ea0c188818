import type { SecretReference } from '../protocol/integration.ts'
import type { SecretStoreType } from '../protocol/primitives.ts'
import type { SecretMaterial } from './material.ts'

export interface ReadOptions {
  /** Ends the read. Nothing comes of what the store answers after that. */
  readonly signal: AbortSignal
}

/**
 * One place that secrets are kept in.
 *
 * `read` fails with a {@link JobError}: `secret_not_found`, `secret_access_denied`, `secret_malformed` or
 * `secret_store_unreachable`. It is never asked for a reference of another type, and how long it may take is not its
 * concern: `stores.ts` has a deadline around it. What it imports of a vendor it imports at the first read.
 */
export interface SecretStore<Type extends SecretStoreType> {
  readonly type: Type
  /** Nothing is saved by remembering what it said: it is asked for every job. Default false. */
  readonly askAlways?: boolean
  read(reference: Extract<SecretReference, { type: Type }>, options: ReadOptions): Promise<SecretMaterial>
  /** Gives back what it holds there (connections, tokens). Nothing is read after that. */
  close?(): Promise<void>
}

/** Any store; `type` says which references it takes. */
export type AnySecretStore = { [Type in SecretStoreType]: SecretStore<Type> }[SecretStoreType]
