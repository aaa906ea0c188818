import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, onTestFinished } from 'vitest'
import { systemClock } from '../../src/observability/clock.ts'
import { kubernetesStore } from '../../src/secrets/kubernetes.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { selfSigned } from './stores/certificates.ts'
import { conforms } from './stores/conformance.ts'
import { httpFaults } from './stores/counterparts-http.ts'
import { startHttpFaultProxy } from './stores/fault-proxy.ts'
import { KUBERNETES, kubernetesImage, kubernetesRequest, readerToken, startKubernetes } from './stores/kubernetes.ts'

// The store as in kubernetes.test.ts, beside an API server that is one, where its image is: its RBAC, with the role of
// docs/secret-stores.md, and a token as a pod has it.

const image = await kubernetesImage()
const NAMESPACE = 'default'
const reference = (name: string) => ({ type: 'kubernetes' as const, namespace: NAMESPACE, name })

const start = async () => {
  const kubernetes = await startKubernetes(image ?? '')
  const { certificate } = kubernetes
  const proxy = await startHttpFaultProxy(kubernetes.endpoint, { certificate, ca: certificate.cert })
  const serviceAccount = path.join(scratchDirectory(), 'serviceaccount')
  mkdirSync(serviceAccount)
  const names = ['full', 'changing', 'other', 'missing']
  const token = await readerToken(kubernetes, { namespace: NAMESPACE, name: 'connector', secrets: names })
  writeFileSync(path.join(serviceAccount, 'ca.crt'), certificate.cert)
  writeFileSync(path.join(serviceAccount, 'token'), token)
  const storeAt = (url: string) => {
    const { hostname, port } = new URL(url)
    const environment = { KUBERNETES_SERVICE_HOST: hostname, KUBERNETES_SERVICE_PORT: port }
    return kubernetesStore({ environment, clock: systemClock, serviceAccount })
  }
  /** As `kubectl apply` would. */
  const put = async (name: string, stringData: object) => {
    const at = `/api/v1/namespaces/${NAMESPACE}/secrets`
    const secret = { metadata: { name, labels: { 'apono-connector-read': 'true' } }, stringData }
    await kubernetesRequest(kubernetes, 'PUT', `${at}/${name}`, secret).catch(() =>
      kubernetesRequest(kubernetes, 'POST', at, secret),
    )
    return reference(name)
  }
  return {
    open: () => storeAt(proxy.url),
    put,
    missing: reference('missing'),
    hostile: [reference('../configmaps/x'), reference('a/b')],
    forbidden: async () => ({
      reference: await put('others', { base64_private_key: 'k' }),
      how: /--resource-name=others/,
    }),
    requests: () => proxy.requests().length,
    faults: httpFaults(proxy, { status: 429, headers: { 'retry-after': '1' }, body: '{}' }),
    distrusted: async () => {
      const impostor = await startHttpFaultProxy(kubernetes.endpoint, { certificate: await selfSigned() })
      onTestFinished(() => impostor.close())
      return { store: storeAt(impostor.url), sent: () => impostor.requests().length }
    },
    stop: async () => {
      await proxy.close()
      await kubernetes.stop()
    },
  }
}

describe.skipIf(image === null)(`beside ${KUBERNETES}`, () => conforms('kubernetes', start, ['putText']))
