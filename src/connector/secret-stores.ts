import type { Clock } from '../observability/clock.ts'
import type { Random } from '../observability/random.ts'
import type { CloudProvider } from '../protocol/primitives.ts'
import { awsStore } from '../secrets/aws.ts'
import { azureStore } from '../secrets/azure.ts'
import { type CloudFinding, detectCloud } from '../secrets/cloud.ts'
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
}

export type StoresConfig = Pick<Config, 'cloudProvider' | 'secretDirectory' | 'vault' | 'deadlines'>

const ofCloud = (provider: CloudProvider, { environment, clock }: StoresDeps): readonly AnySecretStore[] => {
  if (provider === 'aws') return [awsStore(environment)]
  if (provider === 'azure') return [azureStore({ environment, clock })]
  return provider === 'gcp' ? [gcpStore({ environment, clock })] : []
}

/** Where the connector runs: what it was told, or what it finds. */
export const cloudOf = async ({ cloudProvider }: StoresConfig, deps: StoresDeps): Promise<CloudFinding> =>
  cloudProvider === 'detect' ? await detectCloud(deps) : { provider: cloudProvider, by: 'APONO_CLOUD_PROVIDER' }

/**
 * The stores that a connector can read: that of its own cloud and no other's, and those that do not depend on the cloud,
 * where they are there. Nothing of a vendor's SDK is loaded before the first read.
 */
export const storesOf = (config: StoresConfig, cloud: CloudProvider, deps: StoresDeps): SecretStores => {
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
