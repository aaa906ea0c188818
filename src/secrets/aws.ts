import type { GetSecretValueCommandOutput, SecretsManagerClient } from '@aws-sdk/client-secrets-manager'
import { JobError } from '../host/errors.ts'
import type { SecretReference } from '../protocol/integration.ts'
import { materialOf, type SecretMaterial } from './material.ts'
import { type Environment, nodeAgents } from './network.ts'
import type { SecretStore } from './secret-store.ts'
import { ATTEMPT_MS, accessDenied, contentToStore, notFound, unreachable, wordOf } from './store-errors.ts'

/**
 * AWS Secrets Manager, with the credentials that the SDK finds where the connector runs. A secret is only read if it is
 * tagged for it, as the policy says as well (docs/secret-stores.md): where somebody gave the connector more than that
 * policy, the tag still decides.
 */

type Sdk = typeof import('@aws-sdk/client-secrets-manager')
type AwsReference = Extract<SecretReference, { type: 'aws' }>

const TAG = 'apono-connector-read'
/** AWS retries what can pass three times, after about 0.1 and 1 s; `stores.ts` has the deadline around all of it. */
const ATTEMPTS = 3

const ARN = /^arn:(aws[a-z-]*):secretsmanager:([a-z0-9-]+):(\d{12}):secret:(.+)$/
const REGION = /^[a-z]{2,4}(?:-[a-z]+)+-\d{1,2}$/
const SECRET_ID = /^[A-Za-z0-9/_+=.@!:-]{1,2048}$/

interface Place {
  readonly region: string
  readonly secretId: string
  /** Of an ARN its name, as far as that can be told. */
  readonly name: string
  /** As a policy names it: the six characters at the end are AWS's own. */
  readonly resource: string
}

/** Checked again here: the region becomes part of a host name. */
const placeOf = ({ region, secretId }: AwsReference): Place => {
  const [, partition = 'aws', own = region, account = '*', name = `${secretId}-??????`] = ARN.exec(secretId) ?? []
  if (!REGION.test(own) || !SECRET_ID.test(secretId)) {
    throw notFound('a secret of that name or region', 'Correct the region (eu-west-1) and the name or ARN.')
  }
  const plain = account === '*' ? secretId : name.replace(/-[A-Za-z0-9]{6}$/, '')
  return {
    region: own,
    secretId,
    name: plain,
    resource: `arn:${partition}:secretsmanager:${own}:${account}:secret:${name}`,
  }
}

export const awsPolicy = (resource: string): string =>
  JSON.stringify({
    Version: '2012-10-17',
    Statement: [
      {
        Effect: 'Allow',
        Action: ['secretsmanager:DescribeSecret', 'secretsmanager:GetSecretValue'],
        Resource: resource,
        Condition: { StringEquals: { [`secretsmanager:ResourceTag/${TAG}`]: 'true' } },
      },
    ],
  })

const command = (place: Place, words: string): string =>
  `aws secretsmanager ${words.replace('ID', `--secret-id '${place.secretId}'`)} --region ${place.region}`

const tagCommand = (place: Place): string => command(place, `tag-resource ID --tags Key=${TAG},Value=true`)

const notTagged = (place: Place): JobError =>
  accessDenied(`the secret ${place.secretId} is not tagged ${TAG}=true`, tagCommand(place))

/** An ARN is all that is taken out of what AWS says. */
const principalOf = (error: unknown): string => {
  const message = error instanceof Error ? error.message : ''
  return /arn:aws[a-z-]*:(?:iam|sts)::\d{12}:[A-Za-z0-9+=,.@_/-]{1,256}/.exec(message)?.[0] ?? 'the connector'
}

const mayNot = (place: Place, error: unknown): JobError =>
  accessDenied(
    `${principalOf(error)} may not read ${place.secretId}, or it is not tagged ${TAG}=true`,
    `Attach this policy: ${awsPolicy(place.resource)}\nand tag the secret: ${tagCommand(place)}`,
  )

const mayNotDecrypt = (place: Place, error: unknown): JobError =>
  accessDenied(
    `the key that ${place.secretId} is encrypted with may not be used by ${principalOf(error)}`,
    `Allow kms:Decrypt on the secret's KMS key, with the condition kms:ViaService = secretsmanager.${place.region}.amazonaws.com`,
  )

const noCredentials = (error: unknown, how: string): JobError =>
  accessDenied(
    `AWS takes no credentials of this connector (${wordOf(error)})`,
    `${how} Give it a role: an instance profile, ECS task role, EKS Pod Identity or IRSA.`,
  )

const EXPIRED = new Set(['ExpiredToken', 'ExpiredTokenException', 'RequestExpired'])
const REFUSED = new Set([
  'UnrecognizedClientException',
  'InvalidClientTokenId',
  'InvalidSignatureException',
  'IncompleteSignature',
  'MissingAuthenticationToken',
  'InvalidAccessKeyId',
  'SignatureDoesNotMatch',
  ...EXPIRED,
])

const nameOf = (error: unknown): string => (error instanceof Error ? error.name : '')
const statusOf = (error: unknown): number | undefined =>
  (error as { $metadata?: { httpStatusCode?: number } } | null)?.$metadata?.httpStatusCode
const isKms = (error: unknown): boolean =>
  nameOf(error) === 'DecryptionFailure' || (error instanceof Error && /\bKMS\b/i.test(error.message))

const explain = (error: unknown, place: Place): JobError => {
  if (error instanceof JobError) return error
  const name = nameOf(error)
  if (name === 'ResourceNotFoundException') {
    const how = `${command(place, `create-secret --name '${place.name}'`)} --secret-string ${contentToStore()} --tags Key=${TAG},Value=true`
    return notFound(`the secret ${place.secretId} in ${place.region}`, how)
  }
  if (name === 'InvalidRequestException') {
    return notFound(`the secret ${place.secretId}, which is marked for deletion,`, command(place, 'restore-secret ID'))
  }
  if (name === 'ValidationException' || name === 'InvalidParameterException') {
    return notFound(`a secret of that name, which AWS takes for none,`, 'Correct the name or ARN.')
  }
  if (isKms(error)) return mayNotDecrypt(place, error)
  if (name === 'AccessDeniedException' || name === 'AccessDenied') return mayNot(place, error)
  if (name === 'CredentialsProviderError') return noCredentials(error, 'None were found.')
  if (REFUSED.has(name)) return noCredentials(error, 'They are wrong or out of date.')
  // Of an endpoint policy, or of something on the way that says it in words of its own.
  if (statusOf(error) === 403) return mayNot(place, error)
  return unreachable(`AWS Secrets Manager in ${place.region} did not answer (${wordOf(error)})`)
}

const contentOf = ({ SecretString, SecretBinary }: GetSecretValueCommandOutput): string | Uint8Array =>
  SecretString ?? SecretBinary ?? ''

const readWith = async (
  sdk: Sdk,
  client: SecretsManagerClient,
  place: Place,
  abortSignal: AbortSignal,
): Promise<SecretMaterial> => {
  const described = await client.send(new sdk.DescribeSecretCommand({ SecretId: place.secretId }), { abortSignal })
  if (!described.Tags?.some(({ Key, Value }) => Key === TAG && Value === 'true')) throw notTagged(place)
  // By its ARN: the name may be another secret's by now, one without the tag.
  const read = new sdk.GetSecretValueCommand({ SecretId: described.ARN ?? place.secretId })
  const value = await client.send(read, { abortSignal })
  const content = contentOf(value)
  try {
    return materialOf(content, `${value.ARN} ${value.VersionId}`)
  } finally {
    if (typeof content !== 'string') content.fill(0)
  }
}

export const awsStore = (environment: Environment): SecretStore<'aws'> => {
  /** By region. They hold the credentials, and renew them by themselves. */
  const clients = new Map<string, SecretsManagerClient>()

  const clientOf = ({ SecretsManagerClient: Client }: Sdk, region: string): SecretsManagerClient => {
    const found = clients.get(region)
    if (found !== undefined) return found
    const requestHandler = {
      ...nodeAgents(environment),
      connectionTimeout: ATTEMPT_MS,
      requestTimeout: ATTEMPT_MS,
      // Without it a timeout is only a warning on the console.
      throwOnRequestTimeout: true,
    }
    const client = new Client({ region, maxAttempts: ATTEMPTS, requestHandler })
    clients.set(region, client)
    return client
  }

  const forget = (region: string): void => {
    clients.get(region)?.destroy()
    clients.delete(region)
  }

  const read = async (place: Place, signal: AbortSignal): Promise<SecretMaterial> => {
    const sdk = await import('@aws-sdk/client-secrets-manager')
    try {
      return await readWith(sdk, clientOf(sdk, place.region), place, signal)
    } catch (error) {
      if (!EXPIRED.has(nameOf(error))) throw error
      // What the client holds is out of date, and it would go on holding it.
      forget(place.region)
      return await readWith(sdk, clientOf(sdk, place.region), place, signal)
    }
  }

  return {
    type: 'aws',
    read: async (reference, { signal }) => {
      const place = placeOf(reference)
      try {
        return await read(place, signal)
      } catch (error) {
        throw explain(error, place)
      }
    },
    close: async () => {
      for (const region of [...clients.keys()]) forget(region)
    },
  }
}
