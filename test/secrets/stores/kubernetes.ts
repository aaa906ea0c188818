import { randomUUID } from 'node:crypto'
import { Wait } from 'testcontainers'
import { Agent, fetch } from 'undici'
import { removeContainers, whileStarting } from '../../hosts/cleanup.ts'
import { runCommand } from '../../hosts/command.ts'
import { loopbackContainer } from '../../hosts/loopback.ts'
import { type Certificate, selfSigned } from './certificates.ts'

// The API server of Kubernetes, with RBAC and real tokens of service accounts, and nothing else of a cluster. Only where
// its image is: `sh docker/base-images.sh kube-apiserver:1.34.4` makes it, which takes a quarter of an hour.

export const KUBERNETES = 'kube-apiserver:1.34.4'

export type Kubernetes = {
  /** https. Trust `certificate.cert`. */
  endpoint: string
  certificate: Certificate
  /** May do everything. */
  adminToken: string
  stop(): Promise<void>
}

/** Null where the image is not: the tests that need it are then skipped, and say so. */
export const kubernetesImage = async (): Promise<string | null> => {
  const name = `apono-local/${KUBERNETES}`
  return (await runCommand('docker', ['image', 'inspect', name])).code === 0 ? name : null
}

const FLAGS = [
  '--authorization-mode=RBAC',
  '--token-auth-file=/etc/kube/tokens.csv',
  '--tls-cert-file=/etc/kube/tls.crt',
  '--tls-private-key-file=/etc/kube/tls.key',
  '--service-account-issuer=https://kubernetes.default.svc',
  '--service-account-key-file=/etc/kube/tls.crt',
  '--service-account-signing-key-file=/etc/kube/tls.key',
  '--service-cluster-ip-range=10.0.0.0/24',
]

export const startKubernetes = async (image: string): Promise<Kubernetes> => {
  const certificate = await selfSigned()
  const adminToken = randomUUID()
  const files = {
    'tls.crt': certificate.cert,
    'tls.key': certificate.key,
    'tokens.csv': `${adminToken},admin,admin,"system:masters"\n`,
  }
  const container = await whileStarting(() =>
    loopbackContainer(image)
      .withCommand(FLAGS)
      .withCopyContentToContainer(
        Object.entries(files).map(([name, content]) => ({ content, target: `/etc/kube/${name}` })),
      )
      .withExposedPorts(6443)
      .withWaitStrategy(Wait.forHttp('/readyz', 6443).usingTls().allowInsecure())
      .withStartupTimeout(60_000)
      .start(),
  )
  return {
    endpoint: `https://127.0.0.1:${container.getMappedPort(6443)}`,
    certificate,
    adminToken,
    stop: () => removeContainers([container.getId()]),
  }
}

export type KubernetesInput = { namespace: string; name: string; data: Readonly<Record<string, string>> }

/** Makes the secret, in a namespace that is there. */
export const putSecret = async (kubernetes: Kubernetes, { namespace, name, data }: KubernetesInput): Promise<void> => {
  await kubernetesRequest(kubernetes, 'POST', `/api/v1/namespaces/${namespace}/secrets`, {
    metadata: { name },
    stringData: data,
  })
}

/** A new service account that may read these secrets of its namespace, and no more; gives a token of it. */
export const readerToken = async (
  kubernetes: Kubernetes,
  { namespace, name, secrets }: { namespace: string; name: string; secrets: readonly string[] },
): Promise<string> => {
  const rbac = `/apis/rbac.authorization.k8s.io/v1/namespaces/${namespace}`
  const post = (path: string, body: unknown) => kubernetesRequest(kubernetes, 'POST', path, body)
  const accounts = `/api/v1/namespaces/${namespace}/serviceaccounts`
  const rules = [{ apiGroups: [''], resources: ['secrets'], resourceNames: secrets, verbs: ['get'] }]
  await post(accounts, { metadata: { name } })
  await post(`${rbac}/roles`, { metadata: { name }, rules })
  await post(`${rbac}/rolebindings`, {
    metadata: { name },
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name },
    subjects: [{ kind: 'ServiceAccount', name, namespace }],
  })
  const answer = await post(`${accounts}/${name}/token`, { spec: {} })
  return (answer as { status: { token: string } }).status.token
}

/** Anything of its API, as the admin unless told otherwise. */
export const kubernetesRequest = async (
  { endpoint, certificate, adminToken }: Kubernetes,
  method: string,
  path: string,
  body?: unknown,
  token = adminToken,
): Promise<unknown> => {
  const dispatcher = new Agent({ connect: { ca: certificate.cert } })
  try {
    const response = await fetch(`${endpoint}${path}`, {
      dispatcher,
      method,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const text = await response.text()
    if (!response.ok) throw new Error(`kubernetes answered ${response.status}: ${text}`)
    return JSON.parse(text)
  } finally {
    await dispatcher.close()
  }
}
