import { JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import type { SecretReference } from '../protocol/integration.ts'
import type { CloudProvider, SecretStoreType } from '../protocol/primitives.ts'
import { withDeadline } from '../ssh/deadline.ts'
import { disposeMaterial, type SecretMaterial } from './material.ts'
import type { AnySecretStore } from './secret-store.ts'
import { unreachable } from './store-errors.ts'

/** The stores that this connector can read, as one. */
export interface SecretStores {
  /** What the connector says it can read when it registers. */
  readonly types: readonly SecretStoreType[]
  /** Whether what this store said is not worth remembering. */
  askAlways(type: SecretStoreType): boolean
  /**
   * Settles within the deadline, whatever a vendor's SDK does; what comes later is disposed of. Fails with
   * `secret_store_mismatch` for a store that is not among them, with `cancelled` when `signal` is aborted, else as
   * `SecretStore.read` does.
   */
  read(reference: SecretReference, options?: { readonly signal?: AbortSignal }): Promise<SecretMaterial>
  close(): Promise<void>
}

export interface StoresOptions {
  readonly clock: Clock
  /** Where the connector runs, as far as it knows. */
  readonly cloud: CloudProvider
  /** For one read, attempts and pauses between them included. Milliseconds. */
  readonly deadlineMs: number
}

const CLOUD_NAMES: Readonly<Record<CloudProvider, string>> = {
  aws: 'in AWS',
  azure: 'in Azure',
  gcp: 'in Google Cloud',
  kubernetes: 'in Kubernetes',
  none: 'in no cloud that it knows of',
}

const HOW_TO_HAVE: Readonly<Record<SecretStoreType, string>> = {
  aws: 'If it does run in AWS, set APONO_CLOUD_PROVIDER=aws on it',
  azure: 'If it does run in Azure, set APONO_CLOUD_PROVIDER=azure on it',
  gcp: 'If it does run in Google Cloud, set APONO_CLOUD_PROVIDER=gcp on it',
  kubernetes: 'Secrets of Kubernetes are read in a pod of that cluster only',
  hashicorp_vault: 'Set VAULT_ADDR on the connector (docs/secret-stores.md)',
  file: 'Set APONO_SECRET_DIR on the connector',
}

const mismatch = (wanted: SecretStoreType, types: readonly SecretStoreType[], cloud: CloudProvider): JobError => {
  const readable = types.length === 0 ? 'no store' : types.join(', ')
  return new JobError(
    'secret_store_mismatch',
    `this connector runs ${CLOUD_NAMES[cloud]} and can read ${readable}; the integration names ${wanted}`,
    {
      detail: `Keep the secret in one that it can read, or use a connector that runs where the secret is. ${HOW_TO_HAVE[wanted]}.`,
    },
  )
}

/** Nothing that a store still wants to say holds up the end of the process. */
const CLOSE_MS = 3000

const calledOff = (): JobError => new JobError('cancelled', 'called off while reading the secret')

export const secretStores = (
  stores: readonly AnySecretStore[],
  { clock, cloud, deadlineMs }: StoresOptions,
): SecretStores => {
  const byType = new Map(stores.map((store) => [store.type, store]))
  const types = [...byType.keys()]

  const bounded = async (store: AnySecretStore, reference: SecretReference, signal?: AbortSignal) => {
    const over = new AbortController()
    // Started in a promise of its own, so that what a store throws at once is a rejection as well.
    const reading = Promise.resolve().then(() => store.read(reference as never, { signal: over.signal }))
    try {
      return await withDeadline(reading, {
        clock,
        ms: deadlineMs,
        signal,
        onTimeout: () => unreachable(`${store.type}: the secret was not read within ${deadlineMs} ms`),
        onAbort: calledOff,
      })
    } catch (error) {
      over.abort()
      // One that comes when nobody waits any more.
      reading.then(disposeMaterial, () => undefined)
      throw error
    }
  }

  return {
    types,
    askAlways: (type) => byType.get(type)?.askAlways === true,
    read: async (reference, { signal } = {}) => {
      const store = byType.get(reference.type)
      if (store === undefined) throw mismatch(reference.type, types, cloud)
      return await bounded(store, reference, signal)
    },
    close: async () => {
      const timer = new AbortController()
      const closing = Promise.allSettled(stores.map((store) => store.close?.()))
      await Promise.race([closing, clock.sleep(CLOSE_MS, timer.signal).catch(() => undefined)])
      timer.abort('closed')
    },
  }
}
