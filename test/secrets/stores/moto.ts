import {
  CreateSecretCommand,
  PutSecretValueCommand,
  ResourceExistsException,
  SecretsManagerClient,
} from '@aws-sdk/client-secrets-manager'
import { Wait } from 'testcontainers'
import { removeContainers, whileStarting } from '../../hosts/cleanup.ts'
import { loopbackContainer } from '../../hosts/loopback.ts'
import type { HttpFault } from './fault-proxy.ts'
import { storeImage } from './images.ts'

// AWS as moto has it: Secrets Manager, IAM and STS, in memory. As it starts it asks nobody who they are. With
// `enforceIam` it checks keys, signatures and the actions of policies. It does not know what a request is about, so a
// policy for anything but the resource `*` allows nothing; and it takes every condition for met. It refuses in XML, with
// 403, and misses secrets with 404, where AWS does both with 400 and JSON: `awsError` is how AWS says it, for the fault
// proxy.

export type Moto = {
  endpoint: string
  /** From the next request on: its key must be one of IAM's, its signature right, its action allowed. */
  enforceIam(): Promise<void>
  /** Nobody is asked any more. */
  relaxIam(): Promise<void>
  stop(): Promise<void>
}

export const REGION = 'eu-central-1'

export const startMoto = async (): Promise<Moto> => {
  const image = await storeImage('moto')
  const container = await whileStarting(() =>
    loopbackContainer(image)
      .withExposedPorts(5000)
      .withWaitStrategy(Wait.forLogMessage(/Running on all addresses/))
      .withStartupTimeout(30_000)
      .start(),
  )
  const endpoint = `http://127.0.0.1:${container.getMappedPort(5000)}`
  return {
    endpoint,
    enforceIam: () => freeRequests(endpoint, 0),
    relaxIam: () => freeRequests(endpoint, Number.MAX_SAFE_INTEGER),
    stop: () => removeContainers([container.getId()]),
  }
}

const freeRequests = async (endpoint: string, count: number): Promise<void> => {
  const response = await fetch(`${endpoint}/moto-api/reset-auth`, { method: 'POST', body: String(count) })
  if (!response.ok) throw new Error(`moto answered ${response.status}: ${await response.text()}`)
}

export type SecretInput = {
  name: string
  value: string | Uint8Array
  tags?: Readonly<Record<string, string>>
}

export type StoredSecret = { arn: string; versionId: string }

/** Makes the secret, or a new version of it (tags are those it was made with). */
export const putSecret = async (endpoint: string, secret: SecretInput): Promise<StoredSecret> => {
  const client = adminClient(endpoint)
  try {
    return await createSecret(client, secret)
  } catch (error) {
    if (!(error instanceof ResourceExistsException)) throw error
    return stored(await client.send(new PutSecretValueCommand({ SecretId: secret.name, ...content(secret.value) })))
  } finally {
    client.destroy()
  }
}

const createSecret = async (client: SecretsManagerClient, { name, value, tags = {} }: SecretInput) => {
  const Tags = Object.entries(tags).map(([Key, Value]) => ({ Key, Value }))
  return stored(await client.send(new CreateSecretCommand({ Name: name, ...content(value), Tags })))
}

const content = (value: string | Uint8Array) =>
  typeof value === 'string' ? { SecretString: value } : { SecretBinary: value }

const stored = (answer: { ARN?: string | undefined; VersionId?: string | undefined }): StoredSecret => ({
  arn: answer.ARN ?? '',
  versionId: answer.VersionId ?? '',
})

/** Whoever it says it is: that is asked only with `enforceIam`. */
export const adminClient = (endpoint: string): SecretsManagerClient =>
  new SecretsManagerClient({
    endpoint,
    region: REGION,
    credentials: { accessKeyId: 'admin', secretAccessKey: 'admin' },
  })

/** An answer of AWS's JSON protocol. Most errors have 400; a throttled request too. */
export const awsError = (type: string, message: string, status = 400): HttpFault => ({
  status,
  headers: { 'content-type': 'application/x-amz-json-1.1', 'x-amzn-errortype': type },
  body: JSON.stringify({ __type: type, Message: message }),
})
