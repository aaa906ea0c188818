import type { SecretManagerServiceClient } from '@google-cloud/secret-manager'
import { JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import type { Random } from '../observability/random.ts'
import type { SecretReference } from '../protocol/integration.ts'
import { contentVersion } from './content-version.ts'
import { materialOf, type SecretMaterial } from './material.ts'
import { type Environment, keepIdentitiesOffProxies, proxyOf } from './network.ts'
import type { SecretStore } from './secret-store.ts'
import { ATTEMPT_MS, accessDenied, contentToStore, notFound, retrying, unreachable, wordOf } from './store-errors.ts'

/** Google Secret Manager, always the newest version, with the credentials that Google's library finds (ADC). */

type GcpReference = Extract<SecretReference, { type: 'gcp' }>
type ClientOptions = NonNullable<ConstructorParameters<typeof SecretManagerServiceClient>[0]>

export interface GcpOptions {
  readonly environment: Environment
  readonly clock: Clock
  readonly random: Random
  /** For emulators: another endpoint, other credentials. */
  readonly client?: ClientOptions
}

const PROJECT = /^(?:[a-z0-9.-]{1,63}:)?[a-z0-9-]{1,63}$/
const SECRET = /^[A-Za-z0-9_-]{1,255}$/

const check = ({ project, secretId }: GcpReference): void => {
  if (PROJECT.test(project) && SECRET.test(secretId)) return
  throw notFound('a secret of that name or project', 'Correct project (my-project) and secret_id.')
}

const CODES = { invalid: 3, notFound: 5, denied: 7, disabled: 9, unauthenticated: 16 }
/** As HTTP says it: what gives out tokens has none for us. */
const NO_TOKEN: ReadonlySet<unknown> = new Set([400, 401, 403, 404])
/** DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE. */
const PASSING: ReadonlySet<unknown> = new Set([4, 8, 13, 14])

const gcloud = ({ project, secretId }: GcpReference, words: string): string =>
  `gcloud secrets ${words.replace('ID', secretId)} --project ${project}`

const noCredentials = (error: unknown): JobError =>
  accessDenied(
    `Google gives this connector no token (${wordOf(error)})`,
    'Give it a service account: of the instance or Cloud Run service, or by Workload Identity on GKE.',
  )

const explain = (error: unknown, reference: GcpReference): JobError => {
  if (error instanceof JobError) return error
  const { code, message } = error as { code?: unknown; message?: unknown }
  const what = `the secret ${reference.secretId} of ${reference.project}`
  if (code === CODES.notFound) {
    const create = gcloud(reference, 'create ID --data-file=-')
    return notFound(`${what}, or a version of it,`, `printf %s ${contentToStore()} | ${create}`)
  }
  if (code === CODES.disabled) {
    return notFound(`a version of ${what} that can be read`, gcloud(reference, 'versions enable VERSION --secret=ID'))
  }
  if (code === CODES.denied) {
    const binding = 'add-iam-policy-binding ID --role roles/secretmanager.secretAccessor'
    const member = '--member serviceAccount:CONNECTOR-SERVICE-ACCOUNT'
    return accessDenied(
      `the connector may not read ${what}, or it is not there`,
      `${gcloud(reference, binding)} ${member}`,
    )
  }
  if (code === CODES.invalid)
    return notFound('a secret of that name, which Google takes for none,', 'Correct the name.')
  if (code === CODES.unauthenticated || NO_TOKEN.has(code)) return noCredentials(error)
  if (typeof message === 'string' && /default credentials/i.test(message)) return noCredentials(error)
  return unreachable(`Google Secret Manager did not answer (${wordOf(error)})`)
}

/** gRPC looks for it in this alone, or in lower case; the library that fetches tokens looks everywhere. */
const giveGrpcTheProxy = (environment: Environment): void => {
  const { https } = proxyOf(environment)
  if (https !== null) process.env['grpc_proxy'] ??= https
}

export const gcpStore = ({ environment, clock, random, client: options = {} }: GcpOptions): SecretStore<'gcp'> => {
  let client: Promise<SecretManagerServiceClient> | null = null
  const versionOf = contentVersion(random)

  const start = async (): Promise<SecretManagerServiceClient> => {
    giveGrpcTheProxy(environment)
    keepIdentitiesOffProxies(environment)
    const { SecretManagerServiceClient: Client } = await import('@google-cloud/secret-manager')
    const made = new Client(options)
    // By itself it does this beside the first call, and what goes wrong there ends the process.
    await made.initialize()
    return made
  }

  const started = async (): Promise<SecretManagerServiceClient> => {
    client ??= start()
    try {
      return await client
    } catch (error) {
      client = null
      throw error
    }
  }

  const call = async (made: SecretManagerServiceClient, name: string, signal: AbortSignal) => {
    // Its own way of trying again goes on for ten seconds after the time it was given, and forgets why.
    const calling = made.accessSecretVersion({ name }, { timeout: ATTEMPT_MS, retry: null as never })
    const cancel = (): void => (calling as { cancel?: () => void }).cancel?.()
    signal.addEventListener('abort', cancel, { once: true })
    try {
      const [version] = await calling
      return version
    } finally {
      signal.removeEventListener('abort', cancel)
    }
  }

  const read = async ({ project, secretId }: GcpReference, signal: AbortSignal): Promise<SecretMaterial> => {
    const made = await started()
    const name = `projects/${project}/secrets/${secretId}/versions/latest`
    const isPassing = (error: unknown): boolean => PASSING.has((error as { code?: unknown }).code)
    const version = await retrying(() => call(made, name, signal), { clock, signal, isPassing })
    const data = version.payload?.data ?? ''
    const content = typeof data === 'string' ? Buffer.from(data, 'base64') : data
    try {
      // Numbers begin at 1 again when a secret is deleted and made anew.
      return materialOf(content, `${version.name} ${versionOf(content)}`)
    } finally {
      content.fill(0)
    }
  }

  return {
    type: 'gcp',
    read: async (reference, { signal }) => {
      check(reference)
      try {
        return await read(reference, signal)
      } catch (error) {
        throw explain(error, reference)
      }
    },
    close: async () => {
      const open = await client?.catch(() => null)
      client = null
      await open?.close()
    },
  }
}
