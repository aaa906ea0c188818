import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import type { SecretReference } from '../protocol/integration.ts'
import { materialOfFields, type SecretMaterial } from './material.ts'
import { type Environment, type StoreHttp, storeHttp } from './network.ts'
import type { SecretStore } from './secret-store.ts'
import { accessDenied, notFound, unreachable, wordOf } from './store-errors.ts'

/**
 * Secrets of the cluster that the connector runs in: one GET with the service account's token. The client library that
 * exists for it brings fifty packages along for that.
 */

type KubernetesReference = Extract<SecretReference, { type: 'kubernetes' }>

const LABEL = 'apono-connector-read'
/** RFC 1123: a namespace is a label, a secret's name a subdomain. */
const NAMESPACE = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/
const NAME = /^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/

export const SERVICE_ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount'

export interface KubernetesOptions {
  readonly environment: Environment
  readonly clock: Clock
  /** Where token and ca.crt are; only tests have another. */
  readonly serviceAccount?: string
}

/** Whether this is a pod: who it talks to is in its environment. */
export const isInCluster = (environment: Environment): boolean =>
  Boolean(environment['KUBERNETES_SERVICE_HOST']?.trim() && environment['KUBERNETES_SERVICE_PORT']?.trim())

const Secret = z.object({
  metadata: z.object({
    uid: z.string(),
    resourceVersion: z.string(),
    labels: z.record(z.string(), z.string()).default({}),
  }),
  /** Absent in a secret without content. */
  data: z.record(z.string(), z.base64()).default({}),
})

const rbac = ({ namespace, name }: KubernetesReference): string =>
  [
    `kubectl --namespace ${namespace} create role ${LABEL}-${name} --verb=get --resource=secrets --resource-name=${name}`,
    `kubectl --namespace ${namespace} create rolebinding ${LABEL}-${name} --role=${LABEL}-${name} --serviceaccount=CONNECTOR-NAMESPACE:CONNECTOR-SERVICE-ACCOUNT`,
  ].join(' && ')

const labelCommand = ({ namespace, name }: KubernetesReference): string =>
  `kubectl --namespace ${namespace} label secret ${name} ${LABEL}=true`

const createCommand = (reference: KubernetesReference): string =>
  [
    `kubectl --namespace ${reference.namespace} create secret generic ${reference.name} --from-literal=base64_private_key="$(base64 -w0 key.pem)"`,
    labelCommand(reference),
  ].join(' && ')

const check = ({ namespace, name }: KubernetesReference): void => {
  if (NAMESPACE.test(namespace) && NAME.test(name)) return
  throw notFound('a secret of that name or namespace', 'Correct namespace and name: lower case, digits, dashes.')
}

const materialOfSecret = (body: unknown, reference: KubernetesReference): SecretMaterial => {
  const secret = Secret.safeParse(body)
  if (!secret.success) throw unreachable('the answer of the Kubernetes API is not a secret')
  const { metadata, data } = secret.data
  const { namespace, name } = reference
  if (metadata.labels[LABEL] !== 'true') {
    throw accessDenied(`the secret ${namespace}/${name} has no label ${LABEL}=true`, labelCommand(reference))
  }
  const decoded = Object.entries(data).map(([key, value]) => [
    key,
    Buffer.from(value, 'base64').toString('utf8').trim(),
  ])
  return materialOfFields(Object.fromEntries(decoded), `${metadata.uid} ${metadata.resourceVersion}`)
}

const judge = (status: number, body: unknown, reference: KubernetesReference): SecretMaterial => {
  const what = `${reference.namespace}/${reference.name}`
  if (status === 200) return materialOfSecret(body, reference)
  if (status === 404) throw notFound(`the secret ${what}`, createCommand(reference))
  if (status === 403) throw accessDenied(`the connector's service account may not read ${what}`, rbac(reference))
  if (status === 401) {
    throw accessDenied(
      "the Kubernetes API takes no token of this connector's service account",
      'Look whether the service account still exists and the pod mounts its token (automountServiceAccountToken).',
    )
  }
  throw unreachable(`the Kubernetes API answered ${status}`)
}

export const kubernetesStore = ({
  environment,
  clock,
  serviceAccount = SERVICE_ACCOUNT,
}: KubernetesOptions): SecretStore<'kubernetes'> => {
  const name = 'the Kubernetes API'
  const host = environment['KUBERNETES_SERVICE_HOST']?.trim() ?? ''
  const origin = `https://${host.includes(':') ? `[${host}]` : host}:${environment['KUBERNETES_SERVICE_PORT']?.trim()}`
  let http: StoreHttp | null = null

  /** Read every time: the cluster renews it within the hour. */
  const token = async (): Promise<string> => {
    try {
      return (await readFile(path.join(serviceAccount, 'token'), 'utf8')).trim()
    } catch (error) {
      throw accessDenied(
        `the service account's token cannot be read (${wordOf(error)})`,
        'Set automountServiceAccountToken: true on the pod.',
      )
    }
  }

  const read = async (reference: KubernetesReference, signal: AbortSignal): Promise<SecretMaterial> => {
    const authorization = `Bearer ${await token()}`
    http ??= storeHttp({ name, environment, clock, caFile: path.join(serviceAccount, 'ca.crt') })
    const url = new URL(`/api/v1/namespaces/${reference.namespace}/secrets/${reference.name}`, origin)
    const { status, body } = await http.send({ url, headers: { authorization }, signal })
    return judge(status, body, reference)
  }

  return {
    type: 'kubernetes',
    read: async (reference, { signal }) => {
      check(reference)
      try {
        return await read(reference, signal)
      } catch (error) {
        if (error instanceof JobError) throw error
        throw unreachable(`${name} did not answer (${wordOf(error)})`)
      }
    },
    close: async () => {
      await http?.close()
    },
  }
}
