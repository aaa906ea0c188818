import { JobError } from '../host/errors.ts'
import type { SecretReference } from '../protocol/integration.ts'
import type { SecretStoreType } from '../protocol/primitives.ts'
import type { ReadOptions, SecretMaterial, SecretStore } from './secret-store.ts'

/** The stores that this connector can read, as one. */
export interface SecretStores {
  /** What the connector says it can read when it registers. */
  readonly types: readonly SecretStoreType[]
  /** Fails with `secret_store_mismatch` for a store that is not among them, else as {@link SecretStore.read} does. */
  read(reference: SecretReference, options: ReadOptions): Promise<SecretMaterial>
}

export const secretStores = (stores: readonly SecretStore[]): SecretStores => {
  const byType = new Map(stores.map((store) => [store.type, store]))
  const types = [...byType.keys()]
  return {
    types,
    read: async (reference, options) => {
      const store = byType.get(reference.type)
      if (store === undefined) {
        const readable = types.length === 0 ? 'none' : types.join(', ')
        throw new JobError(
          'secret_store_mismatch',
          `the secret is in a store of type ${reference.type}; this connector reads: ${readable}`,
        )
      }
      return await store.read(reference, options)
    },
  }
}
