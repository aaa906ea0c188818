import type { GetSecretValueCommandOutput, SecretsManagerClient } from '@aws-sdk/client-secrets-manager'
import { JobError } from '../host/errors.ts'
import type { SecretReference } from '../protocol/integration.ts'
import { createFew } from './few.ts'
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

const GIVE_A_ROLE = 'Give it a role: an instance profile, ECS task role, EKS Pod Identity or IRSA.'

const noCredentials = (error: unknown, how: string): JobError =>
  accessDenied(`AWS takes no credentials of this connector (${wordOf(error)})`, `${how} ${GIVE_A_ROLE}`)

const isAny = (...names: readonly string[]) => {
  const known = new Set(names)
  return (error: unknown): boolean => error instanceof Error && known.has(error.name)
}
const isExpired = isAny('ExpiredToken', 'ExpiredTokenException', 'RequestExpired')
const isRefusedKey = isAny(
  'UnrecognizedClientException',
  'InvalidClientTokenId',
  'InvalidSignatureException',
  'IncompleteSignature',
  'MissingAuthenticationToken',
  'InvalidAccessKeyId',
  'SignatureDoesNotMatch',
)
const isDenied = isAny('AccessDeniedException', 'AccessDenied')
const isBadName = isAny('ValidationException', 'InvalidParameterException')
/** Of STS, about the role or the token that it is asked for with. */
const isRefusedRole = isAny('AccessDenied', 'InvalidIdentityToken', 'InvalidIdentityTokenException', 'ValidationError')

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : '')
const statusOf = (error: unknown): number | undefined =>
  (error as { $metadata?: { httpStatusCode?: number } } | null)?.$metadata?.httpStatusCode

/** In AWS's own words only: a secret may have the letters in its name. */
const isKms = (error: unknown): boolean =>
  (error instanceof Error && error.name === 'DecryptionFailure') ||
  messageOf(error).includes('Access to KMS is not allowed')

const notThere = (place: Place, error: unknown): JobError => {
  if (messageOf(error).includes('staging label')) {
    const how = `${command(place, 'put-secret-value ID')} --secret-string ${contentToStore()}`
    return notFound(`a current version of the secret ${place.secretId}`, how)
  }
  const create = command(place, `create-secret --name '${place.name}'`)
  const how = `${create} --secret-string ${contentToStore()} --tags Key=${TAG},Value=true`
  return notFound(`the secret ${place.secretId} in ${place.region}`, how)
}

const explain = (error: unknown, place: Place): JobError => {
  if (error instanceof JobError) return error
  if (isAny('ResourceNotFoundException')(error)) return notThere(place, error)
  if (isAny('InvalidRequestException')(error)) {
    return notFound(`the secret ${place.secretId}, which is marked for deletion,`, command(place, 'restore-secret ID'))
  }
  if (isBadName(error)) return notFound('a secret of that name, which AWS takes for none,', 'Correct the name or ARN.')
  if (isKms(error)) return mayNotDecrypt(place, error)
  if (isDenied(error)) return mayNot(place, error)
  if (isRefusedKey(error) || isExpired(error)) return noCredentials(error, 'They are wrong or out of date.')
  // Of an endpoint policy, or of something on the way that says it in words of its own.
  if (statusOf(error) === 403) return mayNot(place, error)
  return unreachable(`AWS Secrets Manager in ${place.region} did not answer (${wordOf(error)})`)
}

/**
 * Before a secret is asked for. `hadSome`: who has had credentials and gets none has trouble with whatever gives them out,
 * which says nothing of what the connector may do; who never had any has been given none.
 */
const explainCredentials = (error: unknown, hadSome: boolean): JobError => {
  if (isRefusedRole(error) || isExpired(error)) {
    const how = "Look at the role's trust policy, and at what AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE name."
    return accessDenied(`AWS does not give this connector its role (${wordOf(error)})`, how)
  }
  if (!hadSome && isAny('CredentialsProviderError')(error)) return noCredentials(error, 'None were found.')
  return unreachable(`what gives out AWS credentials did not answer (${wordOf(error)})`)
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

/** Each has connections and credentials of its own. */
const MOST_REGIONS = 8

export const awsStore = (environment: Environment): SecretStore<'aws'> => {
  /** By region. They renew the credentials by themselves. */
  const clients = createFew<SecretsManagerClient>(MOST_REGIONS, (client) => client.destroy())
  let hadCredentials = false

  const clientOf = ({ SecretsManagerClient: Client }: Sdk, region: string): SecretsManagerClient =>
    clients.get(region, () => {
      const requestHandler = {
        ...nodeAgents(environment),
        connectionTimeout: ATTEMPT_MS,
        requestTimeout: ATTEMPT_MS,
        // Without it a timeout is only a warning on the console.
        throwOnRequestTimeout: true,
      }
      return new Client({ region, maxAttempts: ATTEMPTS, requestHandler })
    })

  const attempt = async (sdk: Sdk, place: Place, signal: AbortSignal): Promise<SecretMaterial> => {
    const client = clientOf(sdk, place.region)
    try {
      await client.config.credentials()
      hadCredentials = true
    } catch (error) {
      throw explainCredentials(error, hadCredentials)
    }
    return await readWith(sdk, client, place, signal)
  }

  const read = async (place: Place, signal: AbortSignal): Promise<SecretMaterial> => {
    const sdk = await import('@aws-sdk/client-secrets-manager')
    try {
      return await attempt(sdk, place, signal)
    } catch (error) {
      if (!isExpired(error)) throw error
      // What the client holds is out of date, and it would go on holding it.
      clients.drop(place.region)
      return await attempt(sdk, place, signal)
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
    close: async () => clients.clear(),
  }
}
