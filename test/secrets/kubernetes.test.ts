import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { systemClock } from '../../src/observability/clock.ts'
import { type KubernetesOptions, kubernetesStore } from '../../src/secrets/kubernetes.ts'
import type { AnySecretStore } from '../../src/secrets/secret-store.ts'
import { selfSigned } from './stores/certificates.ts'
import { conforms } from './stores/conformance.ts'
import { startConnectProxy } from './stores/connect-proxy.ts'
import { httpFaults } from './stores/counterparts-http.ts'
import { startHttpFaultProxy } from './stores/fault-proxy.ts'
import { startKubernetesStub } from './stores/kubernetes-stub.ts'

const signal = new AbortController().signal
const podAt = (url: string) => {
  const { hostname, port } = new URL(url)
  return { KUBERNETES_SERVICE_HOST: hostname, KUBERNETES_SERVICE_PORT: port || '443' }
}
const storeAt = (
  url: string,
  serviceAccount: string,
  environment: KubernetesOptions['environment'] = {},
): AnySecretStore =>
  kubernetesStore({ environment: { ...podAt(url), ...environment }, clock: systemClock, serviceAccount })

const reference = (name: string, namespace = 'apono') => ({ type: 'kubernetes' as const, namespace, name })

conforms('kubernetes', async () => {
  const stub = await startKubernetesStub()
  const proxy = await startHttpFaultProxy(stub.url, { certificate: stub.certificate, ca: stub.certificate.cert })
  stub.put('apono', 'forbidden', { base64_private_key: 'k' })
  stub.forbid('apono', 'forbidden')
  return {
    open: () => storeAt(proxy.url, stub.serviceAccount),
    put: async (name, fields) => {
      stub.put('apono', name, fields)
      return reference(name)
    },
    missing: reference('missing'),
    hostile: [
      reference('../../../healthz'),
      reference('a/b'),
      reference('a?watch=true'),
      reference('A'),
      reference('a', 'kube-system/secrets/x#'),
      reference('a', '..'),
      reference('.'),
    ],
    forbidden: async () => ({
      reference: reference('forbidden'),
      how: /create role .*--verb=get .*--resource-name=forbidden/,
    }),
    requests: () => proxy.requests().length,
    faults: httpFaults(proxy, { status: 429, headers: { 'retry-after': '1' }, body: '{}' }),
    distrusted: async () => {
      const impostor = await startHttpFaultProxy(stub.url, { certificate: await selfSigned() })
      onTestFinished(() => impostor.close())
      return { store: storeAt(impostor.url, stub.serviceAccount), sent: () => impostor.requests().length }
    },
    stop: async () => {
      await proxy.close()
      await stub.stop()
    },
  }
}, ['putText'])

const start = async () => {
  const stub = await startKubernetesStub()
  onTestFinished(() => stub.stop())
  const store = storeAt(stub.url, stub.serviceAccount)
  onTestFinished(async () => void (await store.close?.()))
  return { stub, read: (name: string) => store.read(reference(name) as never, { signal }) }
}

test.each([{}, { 'apono-connector-read': 'false' }, { other: 'true' }])(
  'a Kubernetes secret with the labels %j is not for us, and the hint labels it',
  async (labels) => {
    const { stub, read } = await start()
    stub.put('apono', 'ssh', { base64_private_key: 'k' }, labels)
    await expect(read('ssh')).rejects.toMatchObject({
      code: 'secret_access_denied',
      hint: 'kubectl --namespace apono label secret ssh apono-connector-read=true',
    })
  },
)

test('a service account token that is renewed counts at the next read, and one that is gone is told', async () => {
  const { stub, read } = await start()
  stub.put('apono', 'ssh', { base64_private_key: 'k' })
  await read('ssh')
  stub.renewToken()
  await read('ssh')
  const other = storeAt(stub.url, '/nowhere')
  onTestFinished(async () => void (await other.close?.()))
  await expect(other.read(reference('ssh') as never, { signal })).rejects.toMatchObject({
    code: 'secret_access_denied',
    hint: expect.stringContaining('automountServiceAccountToken'),
  })
})

test('the authority of the cluster may be changed, and the next read knows it', async () => {
  const { stub, read } = await start()
  stub.put('apono', 'ssh', { base64_private_key: 'k' })
  const file = path.join(stub.serviceAccount, 'ca.crt')
  const right = readFileSync(file)
  writeFileSync(file, (await selfSigned()).cert)
  await expect(read('ssh')).rejects.toMatchObject({ code: 'secret_store_unreachable' })
  writeFileSync(file, right)
  expect((await read('ssh')).privateKey.reveal()).toBe('k')
})

test('the API may be behind a proxy, and is still believed by the authority of the cluster alone', async () => {
  const stub = await startKubernetesStub({ names: ['api.test.invalid'] })
  onTestFinished(() => stub.stop())
  stub.put('apono', 'ssh', { base64_private_key: 'k' })
  const proxy = await startConnectProxy({ 'api.test.invalid': Number(new URL(stub.url).port) })
  onTestFinished(() => proxy.close())
  const store = storeAt('https://api.test.invalid', stub.serviceAccount, { HTTPS_PROXY: proxy.url })
  onTestFinished(async () => void (await store.close?.()))
  expect((await store.read(reference('ssh') as never, { signal })).privateKey.reveal()).toBe('k')
  expect(proxy.asked()).toEqual(['api.test.invalid:443'])
})

test('what is no base64, as of a server that is none, is no secret', async () => {
  const { stub } = await start()
  const body = JSON.stringify({ metadata: { uid: 'u', resourceVersion: '1' }, data: { base64_private_key: '%%%' } })
  const proxy = await startHttpFaultProxy(stub.url, { certificate: stub.certificate, ca: stub.certificate.cert })
  onTestFinished(() => proxy.close())
  proxy.always({ status: 200, body })
  const store = storeAt(proxy.url, stub.serviceAccount)
  onTestFinished(async () => void (await store.close?.()))
  await expect(store.read(reference('ssh') as never, { signal })).rejects.toMatchObject({
    code: 'secret_store_unreachable',
  })
})
