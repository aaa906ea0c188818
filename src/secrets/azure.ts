import type { TokenCredential } from '@azure/identity'
import type { SecretClient } from '@azure/keyvault-secrets'
import { JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import type { SecretReference } from '../protocol/integration.ts'
import { createFew } from './few.ts'
import { materialOf, type SecretMaterial } from './material.ts'
import { type Environment, keepIdentitiesOffProxies } from './network.ts'
import type { SecretStore } from './secret-store.ts'
import { ATTEMPT_MS, accessDenied, contentToStore, notFound, retrying, unreachable, wordOf } from './store-errors.ts'

/**
 * Azure Key Vault, with the identity that Azure gave where the connector runs. Which vaults there may be is the guard's
 * to say; here it is https, and the SDK gives its token to nobody who isn't of the domain that the token is for.
 */

type AzureReference = Extract<SecretReference, { type: 'azure' }>

export interface AzureOptions {
  readonly environment: Environment
  readonly clock: Clock
  /** Only for emulators, whose domain is none of Azure's. Default true. */
  readonly checkChallenge?: boolean
}

const NAME = /^[A-Za-z0-9-]{1,127}$/
const VAULT_URL = /^https:\/\/[A-Za-z0-9.-]+(?::\d{1,5})?\/?$/

interface Place {
  /** `https://HOST[:PORT]` */
  readonly vault: string
  /** What `az` calls it. */
  readonly vaultName: string
  readonly name: string
}

const placeOf = ({ vaultUrl, name }: AzureReference): Place => {
  const url = URL.parse(vaultUrl)
  if (url === null || !VAULT_URL.test(vaultUrl) || !NAME.test(name)) {
    throw notFound('a secret of that name or vault', 'Correct vault_url (https://NAME.vault.azure.net) and name.')
  }
  return { vault: url.origin, vaultName: url.hostname.split('.', 1)[0] ?? '', name }
}

/**
 * What the environment names, and nothing else: the SDK's default would try one source after another, a developer's
 * command line among them, and take half a minute.
 */
const credentialOf = async (environment: Environment): Promise<TokenCredential> => {
  keepIdentitiesOffProxies(environment)
  const sdk = await import('@azure/identity')
  const get = (name: string): string => environment[name]?.trim() ?? ''
  const [clientId, tenantId, secret] = [get('AZURE_CLIENT_ID'), get('AZURE_TENANT_ID'), get('AZURE_CLIENT_SECRET')]
  if (get('AZURE_FEDERATED_TOKEN_FILE') !== '') return new sdk.WorkloadIdentityCredential()
  if (secret !== '') return new sdk.ClientSecretCredential(tenantId, clientId, secret)
  return clientId === '' ? new sdk.ManagedIdentityCredential() : new sdk.ManagedIdentityCredential({ clientId })
}

const roleCommand = ({ vaultName, name }: Place): string =>
  [
    'az role assignment create --role "Key Vault Secrets User" --assignee CONNECTOR-PRINCIPAL-ID',
    `--scope "$(az keyvault show --name ${vaultName} --query id --output tsv)/secrets/${name}"`,
  ].join(' ')

const setCommand = ({ vaultName, name }: Place): string =>
  `az keyvault secret set --vault-name ${vaultName} --name ${name} --value ${contentToStore()}`

const recoverCommand = ({ vaultName, name }: Place): string =>
  `az keyvault secret recover --vault-name ${vaultName} --name ${name}`

/** The inner code says more: `SecretDisabled`, `ForbiddenByFirewall`. */
const innerCodeOf = (error: unknown): string => {
  const { details } = error as { details?: { error?: { innerError?: { code?: unknown } } } }
  const code = details?.error?.innerError?.code
  return typeof code === 'string' ? code.replaceAll(/[^A-Za-z]/g, '').slice(0, 64) : ''
}

const forbidden = (error: unknown, place: Place): JobError => {
  const inner = innerCodeOf(error)
  const what = `${place.name} in ${place.vaultName}`
  if (inner === 'SecretDisabled') {
    const how = `az keyvault secret set-attributes --vault-name ${place.vaultName} --name ${place.name} --enabled true`
    return accessDenied(`the secret ${what} is disabled`, how)
  }
  if (inner === 'ForbiddenByFirewall' || inner === 'ForbiddenByConnection') {
    return accessDenied(
      `the vault ${place.vaultName} lets nobody in from here (${inner})`,
      "Allow the connector's network in the vault's firewall, or give it a private endpoint.",
    )
  }
  return accessDenied(`the connector's identity may not read ${what}`, roleCommand(place))
}

const statusOf = (error: unknown): number => {
  const { statusCode } = (error ?? {}) as { statusCode?: unknown }
  return typeof statusCode === 'number' ? statusCode : 0
}

const IDENTITY_ERRORS = new Set([
  'CredentialUnavailableError',
  'AuthenticationError',
  'AuthenticationRequiredError',
  'AggregateAuthenticationError',
])

const noIdentity = (error: unknown): JobError =>
  accessDenied(
    `Azure gives this connector no token (${wordOf(error)})`,
    'Give it a managed identity or a workload identity; AZURE_CLIENT_ID chooses one where there are several.',
  )

/** What the identity service answered, however deep it stands; 0 where it did not. */
const identityStatus = (error: unknown, depth = 0): number => {
  const { statusCode, status, cause } = (error ?? {}) as Record<'statusCode' | 'status' | 'cause', unknown>
  const own = [statusCode, status].find((one) => typeof one === 'number')
  if (typeof own === 'number' || depth > 3) return typeof own === 'number' ? own : 0
  return cause === undefined ? 0 : identityStatus(cause, depth + 1)
}

/** An identity service that is down has refused nobody. */
const isIdentityAway = (error: unknown): boolean => {
  const status = identityStatus(error)
  return status >= 500 || status === 429 || /network_error|ECONN|ETIMEDOUT|EHOSTUNREACH|ENOTFOUND/.test(String(error))
}

const explain = (error: unknown, place: Place): JobError => {
  if (error instanceof JobError) return error
  const status = statusOf(error)
  if (IDENTITY_ERRORS.has((error as Error).name)) {
    return isIdentityAway(error)
      ? unreachable(`what gives out Azure's tokens did not answer (${wordOf(error)})`)
      : noIdentity(error)
  }
  if (status === 404)
    return notFound(
      `the secret ${place.name} in ${place.vaultName}`,
      `${setCommand(place)}\nOne that was deleted: ${recoverCommand(place)}`,
    )
  if (status === 401) return noIdentity(error)
  if (status === 403) return forbidden(error, place)
  if (status === 400) return notFound(`a secret of that name, which Azure takes for none,`, 'Correct the name.')
  return unreachable(`the vault ${place.vaultName} did not answer (${status || wordOf(error)})`)
}

const MOST_VAULTS = 16

export const azureStore = ({ environment, clock, checkChallenge = true }: AzureOptions): SecretStore<'azure'> => {
  /** By vault. */
  const clients = createFew<SecretClient>(MOST_VAULTS)
  let credential: Promise<TokenCredential> | null = null

  const clientOf = async ({ vault }: Place): Promise<SecretClient> => {
    const sdk = await import('@azure/keyvault-secrets')
    credential ??= credentialOf(environment)
    const identity = await credential
    const options = {
      retryOptions: { maxRetries: 2, retryDelayInMs: 200, maxRetryDelayInMs: 1000 },
      disableChallengeResourceVerification: !checkChallenge,
    }
    return clients.get(vault, () => new sdk.SecretClient(vault, identity, options))
  }

  const read = async (place: Place, signal: AbortSignal): Promise<SecretMaterial> => {
    const client = await clientOf(place)
    const options = { abortSignal: signal, requestOptions: { timeout: ATTEMPT_MS } }
    // What is answered the SDK tries again by itself; not what is not.
    const attempts = { clock, signal, isPassing: (error: unknown) => (error as Error).name === 'AbortError' }
    const { value, properties } = await retrying(() => client.getSecret(place.name, options), attempts)
    return materialOf(value ?? '', `${properties.vaultUrl} ${properties.version}`)
  }

  return {
    type: 'azure',
    read: async (reference, { signal }) => {
      const place = placeOf(reference)
      try {
        return await read(place, signal)
      } catch (error) {
        throw explain(error, place)
      }
    },
    close: async () => {
      clients.clear()
      credential = null
    },
  }
}
