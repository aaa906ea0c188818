import type { Clock } from '../observability/clock.ts'
import type { Random } from '../observability/random.ts'
import type { CloudProvider, SecretStoreType } from '../protocol/primitives.ts'
import { awsStore } from '../secrets/aws.ts'
import { azureStore } from '../secrets/azure.ts'
import { type CloudFinding, detectCloud, type Probe } from '../secrets/cloud.ts'
import { fileStore } from '../secrets/file.ts'
import { gcpStore } from '../secrets/gcp.ts'
import { isInCluster, kubernetesStore } from '../secrets/kubernetes.ts'
import type { Environment } from '../secrets/network.ts'
import type { AnySecretStore } from '../secrets/secret-store.ts'
import { type SecretStores, secretStores } from '../secrets/stores.ts'
import { vaultStore } from '../secrets/vault.ts'
import type { Config } from './config.ts'

export interface StoresDeps {
  readonly clock: Clock
  readonly random: Random
  /** For what vendors call their configuration (identities, proxies), and what tells which cloud this is. */
  readonly environment: Environment
  /** For tests. */
  readonly probe?: Probe
}

export type StoresConfig = Pick<Config, 'cloudProvider' | 'secretDirectory' | 'vault' | 'deadlines'>

const ofCloud = (provider: CloudProvider, { environment, clock, random }: StoresDeps): readonly AnySecretStore[] => {
  if (provider === 'aws') return [awsStore(environment)]
  if (provider === 'azure') return [azureStore({ environment, clock })]
  return provider === 'gcp' ? [gcpStore({ environment, clock, random })] : []
}

/** Where the connector runs: what it was told, or what it finds. */
const cloudOf = async ({ cloudProvider }: StoresConfig, deps: StoresDeps): Promise<CloudFinding> =>
  cloudProvider === 'detect' ? await detectCloud(deps) : { provider: cloudProvider, by: 'APONO_CLOUD_PROVIDER' }

/**
 * The stores that a connector can read: that of its own cloud and no other's, and those that do not depend on the cloud,
 * where they are there. Nothing of a vendor's SDK is loaded before the first read.
 */
const storesIn = (config: StoresConfig, cloud: CloudProvider, deps: StoresDeps): SecretStores => {
  const { clock, random, environment } = deps
  const { vault, secretDirectory, deadlines } = config
  const stores: readonly AnySecretStore[] = [
    ...ofCloud(cloud, deps),
    ...(isInCluster(environment) ? [kubernetesStore({ environment, clock })] : []),
    ...(vault === null ? [] : [vaultStore({ config: vault, environment, clock, random })]),
    fileStore({ directory: secretDirectory }),
  ]
  return secretStores(stores, { clock, cloud, deadlineMs: deadlines.secretMs })
}

export interface OpenedStores extends SecretStores {
  readonly cloud: CloudFinding
}

const CLOUDS: ReadonlySet<string> = new Set(['aws', 'azure', 'gcp'])
const LOOK_AGAIN_AFTER_MS = 60_000

/**
 * Finds out where the connector runs, and opens what it can read there. Where no cloud was found it looks once more when a
 * secret of a cloud is asked for, once a minute at most: a network, or a metadata service, may be up later than we are.
 */
export const openStores = async (config: StoresConfig, deps: StoresDeps): Promise<OpenedStores> => {
  const { clock } = deps
  let cloud = await cloudOf(config, deps)
  let stores = storesIn(config, cloud.provider, deps)
  let lookedAt = clock.monotonic()
  let looking = Promise.resolve()

  const mayHaveMissedIt = (type: SecretStoreType): boolean =>
    CLOUDS.has(type) && config.cloudProvider === 'detect' && !CLOUDS.has(cloud.provider)

  const look = async (): Promise<void> => {
    const found = await cloudOf(config, deps)
    if (found.provider === cloud.provider) return
    const former = stores
    cloud = found
    stores = storesIn(config, found.provider, deps)
    await former.close()
  }

  /** One look for all who want one. */
  const lookAgain = async (): Promise<void> => {
    if (clock.monotonic() - lookedAt >= LOOK_AGAIN_AFTER_MS) {
      lookedAt = clock.monotonic()
      looking = look()
    }
    await looking
  }

  return {
    get cloud() {
      return cloud
    },
    get types() {
      return stores.types
    },
    askAlways: (type) => stores.askAlways(type),
    read: async (reference, options) => {
      if (mayHaveMissedIt(reference.type)) await lookAgain()
      return await stores.read(reference, options)
    },
    close: () => stores.close(),
  }
}
