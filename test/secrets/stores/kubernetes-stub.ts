import { randomUUID } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { scratchDirectory } from '../../hosts/scratch.ts'
import { type Certificate, type CertificateOptions, selfSigned } from './certificates.ts'
import { startJsonServer } from './json-server.ts'

// OURS, not a kube-apiserver (docs/testing.md says why): GET of one secret as the API reference has it, the authorizer's
// 403 for a name that is in no role, `Status` bodies, and a service account's folder whose token is renewed.

export type KubernetesStub = {
  url: string
  certificate: Certificate
  /** As it is mounted into a pod: token, ca.crt. */
  serviceAccount: string
  put(
    namespace: string,
    name: string,
    data: Readonly<Record<string, string>>,
    labels?: Readonly<Record<string, string>>,
  ): void
  /** No role names it. */
  forbid(namespace: string, name: string): void
  /** Another token is the one that counts; the one before is not taken any more. */
  renewToken(): void
  stop(): Promise<void>
}

type Stored = { uid: string; resourceVersion: number; labels: object; data: Record<string, string> }

const status = (code: number, reason: string) => ({
  status: code,
  body: { kind: 'Status', apiVersion: 'v1', status: 'Failure', reason, code },
})

export const startKubernetesStub = async (options: CertificateOptions = {}): Promise<KubernetesStub> => {
  const certificate = await selfSigned(options)
  const serviceAccount = path.join(scratchDirectory(), 'serviceaccount')
  mkdirSync(serviceAccount)
  writeFileSync(path.join(serviceAccount, 'ca.crt'), certificate.cert)
  const secrets = new Map<string, Stored>()
  const forbidden = new Set<string>()
  let token = ''
  let resourceVersion = 1000
  const renewToken = (): void => {
    token = randomUUID()
    writeFileSync(path.join(serviceAccount, 'token'), `${token}\n`)
  }
  renewToken()
  const server = await startJsonServer(certificate, (request, asked) => {
    if (request.headers.authorization !== `Bearer ${token}`) return status(401, 'Unauthorized')
    const [, namespace, name] = /^\/api\/v1\/namespaces\/([^/]+)\/secrets\/([^/]+)$/.exec(asked) ?? []
    if (request.method !== 'GET' || namespace === undefined) return status(404, 'NotFound')
    const id = `${namespace}/${name}`
    if (forbidden.has(id)) return status(403, 'Forbidden')
    const stored = secrets.get(id)
    if (stored === undefined) return status(404, 'NotFound')
    const { uid, labels, data } = stored
    const metadata = { namespace, name, uid, labels, resourceVersion: String(stored.resourceVersion) }
    return { status: 200, body: { kind: 'Secret', apiVersion: 'v1', metadata, type: 'Opaque', data } }
  })
  return {
    url: server.url,
    certificate,
    serviceAccount,
    renewToken,
    forbid: (namespace, name) => void forbidden.add(`${namespace}/${name}`),
    put: (namespace, name, data, labels = { 'apono-connector-read': 'true' }) => {
      const id = `${namespace}/${name}`
      const encoded = Object.entries(data).map(([key, value]) => [key, Buffer.from(value).toString('base64')])
      const uid = secrets.get(id)?.uid ?? randomUUID()
      secrets.set(id, { uid, resourceVersion: ++resourceVersion, labels, data: Object.fromEntries(encoded) })
    },
    stop: server.close,
  }
}
