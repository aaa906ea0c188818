import { execFile } from 'node:child_process'
import { createHash, generateKeyPair } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { SecretReference } from '../../src/protocol/integration.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { startAzureStub } from './stores/azure-stub.ts'
import { type Certificate, selfSigned } from './stores/certificates.ts'
import { startConnectProxy } from './stores/connect-proxy.ts'
import { startHttpFaultProxy } from './stores/fault-proxy.ts'
import { startGoogleStub } from './stores/google-stub.ts'
import { startKubernetesStub } from './stores/kubernetes-stub.ts'
import { type Moto, putSecret, REGION, startMoto } from './stores/moto.ts'
import { startVaultStub } from './stores/vault-stub.ts'

// Every store behind a proxy that alone knows its name, with a certificate of an authority that only this company has.
// In processes of their own, because that is when Node.js reads NODE_EXTRA_CA_CERTS.

const NAME = 'store.test.invalid'
const SECRET = JSON.stringify({ base64_private_key: 'k' })
type Env = Record<string, string>

let certificate: Certificate
let caFile: string
beforeAll(async () => {
  certificate = await selfSigned({ names: [NAME] })
  caFile = fileOf(certificate.cert)
})

const fileOf = (text: string): string => {
  const file = path.join(scratchDirectory(), 'ca.pem')
  writeFileSync(file, text)
  return file
}

const childFile = path.join(import.meta.dirname, 'stores', 'read-child.ts')
const read = async (reference: SecretReference, environment: Env): Promise<unknown> => {
  const env = { PATH: process.env['PATH'] ?? '', APONO_SECRET_DIR: '/nowhere', ...environment }
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [childFile, JSON.stringify(reference)], {
    env,
  })
  expect(stderr).not.toMatch(/Unhandled|Uncaught/i)
  return JSON.parse(stdout)
}

type Way = { port: number; reference: SecretReference; environment: Env }

/** A store that speaks TLS by the name that nobody can resolve. */
const ways: Record<string, () => Promise<Way>> = {
  aws: async () => {
    await putSecret(moto.endpoint, { name: 'ssh', value: SECRET, tags: { 'apono-connector-read': 'true' } })
    const proxy = await startHttpFaultProxy(moto.endpoint, { certificate })
    onTestFinished(() => proxy.close())
    const environment = {
      APONO_CLOUD_PROVIDER: 'aws',
      AWS_ENDPOINT_URL_SECRETS_MANAGER: `https://${NAME}`,
      AWS_ACCESS_KEY_ID: 'a',
      AWS_SECRET_ACCESS_KEY: 'b',
    }
    return { port: proxy.port, reference: { type: 'aws', region: REGION, secretId: 'ssh' }, environment }
  },
  azure: async () => {
    const stub = await startAzureStub({ certificate })
    onTestFinished(() => stub.stop())
    stub.put({ name: 'ssh', value: SECRET })
    const { endpoint, header } = stub.identity
    const environment = { TEST_AZURE: '1', IDENTITY_ENDPOINT: endpoint, IDENTITY_HEADER: header }
    return {
      port: portOf(stub.vaultUrl),
      reference: { type: 'azure', vaultUrl: `https://${NAME}`, name: 'ssh' },
      environment,
    }
  },
  gcp: async () => {
    const stub = await startGoogleStub({ certificate })
    onTestFinished(() => void stub.stop())
    stub.put('projects/p/secrets/ssh', SECRET)
    const tokens = await startTokenServer()
    const credentials = path.join(scratchDirectory(), 'credentials.json')
    const { privateKey } = await keyPair()
    const account = { type: 'service_account', client_email: 'c@p.iam', private_key: privateKey, token_uri: tokens.url }
    writeFileSync(credentials, JSON.stringify(account))
    const environment = { TEST_GCP_ENDPOINT: NAME, GOOGLE_APPLICATION_CREDENTIALS: credentials }
    return { port: stub.port, reference: { type: 'gcp', project: 'p', secretId: 'ssh' }, environment }
  },
  hashicorp_vault: async () => {
    const stub = await startVaultStub({ certificate })
    onTestFinished(() => stub.stop())
    stub.put('kv2', 'ssh', JSON.parse(SECRET))
    const environment = { VAULT_ADDR: `https://${NAME}`, VAULT_TOKEN: stub.rootToken }
    return {
      port: portOf(stub.url),
      reference: { type: 'hashicorp_vault', secretEngine: 'kv2', path: 'ssh' },
      environment,
    }
  },
}

let moto: Moto
beforeAll(async () => {
  moto = await startMoto()
})
afterAll(() => moto?.stop())

const portOf = (url: string): number => Number(new URL(url).port)

describe.each(Object.keys(ways))('%s', (name) => {
  const start = async () => {
    const way = await (ways[name] as () => Promise<Way>)()
    const proxy = await startConnectProxy({ [NAME]: way.port })
    onTestFinished(() => proxy.close())
    return { ...way, proxy, environment: { ...way.environment, HTTPS_PROXY: proxy.url } }
  }

  test('is read through the proxy, and by an authority of one’s own', async () => {
    const { reference, environment, proxy } = await start()
    expect(await read(reference, { ...environment, NODE_EXTRA_CA_CERTS: caFile })).toEqual({
      key: createHash('sha256').update('k').digest('hex'),
    })
    // And nobody else: least of all who gives out identities.
    expect(new Set(proxy.asked())).toEqual(new Set([`${NAME}:443`]))
  })

  test('is not believed without that authority, and the reason is told', async () => {
    const { reference, environment } = await start()
    expect(await read(reference, environment)).toMatchObject({
      code: 'secret_store_unreachable',
      message: expect.stringMatching(/self[- ]signed certificate|SELF_SIGNED/),
    })
  })

  test('is not looked for in the proxy where NO_PROXY names it', async () => {
    const { reference, environment, proxy } = await start()
    const without = { ...environment, NO_PROXY: NAME, NODE_EXTRA_CA_CERTS: caFile }
    expect(await read(reference, without)).toMatchObject({ code: 'secret_store_unreachable' })
    expect(proxy.asked()).toEqual([])
  })
})

test('Vault is read through the proxy by the authority that is named for it alone', async () => {
  const { port, reference, environment } = await (ways['hashicorp_vault'] as () => Promise<Way>)()
  const proxy = await startConnectProxy({ [NAME]: port })
  onTestFinished(() => proxy.close())
  const named = { ...environment, HTTPS_PROXY: proxy.url, VAULT_CACERT: caFile }
  expect(await read(reference, named)).toMatchObject({ key: expect.any(String) })
})

test('a pod reads its secrets by the authority that is mounted into it', async () => {
  const stub = await startKubernetesStub()
  onTestFinished(() => stub.stop())
  stub.put('apono', 'ssh', JSON.parse(SECRET))
  const { hostname, port } = new URL(stub.url)
  // The folder of a service account is where it always is: not here.
  const environment = { KUBERNETES_SERVICE_HOST: hostname, KUBERNETES_SERVICE_PORT: port }
  expect(await read({ type: 'kubernetes', namespace: 'apono', name: 'ssh' }, environment)).toMatchObject({
    code: 'secret_access_denied',
    hint: expect.stringContaining('automountServiceAccountToken'),
  })
})

test.each([403, 404])('Google that gives out no token (%i) refuses, and is not down', async (status) => {
  const server = http.createServer(({ url = '' }, response) => {
    const isToken = url.includes('/token')
    response.writeHead(isToken ? status : 200, { 'metadata-flavor': 'Google' }).end('x')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const own = await selfSigned({ names: ['localhost'] })
  const stub = await startGoogleStub({ certificate: own })
  onTestFinished(() => void [server.close(), stub.stop()])
  const environment = {
    TEST_GCP_ENDPOINT: 'localhost',
    TEST_GCP_TLS_PORT: String(stub.port),
    GCE_METADATA_HOST: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    METADATA_SERVER_DETECTION: 'assume-present',
    NODE_EXTRA_CA_CERTS: fileOf(own.cert),
  }
  expect(await read({ type: 'gcp', project: 'p', secretId: 'ssh' }, environment)).toMatchObject({
    code: 'secret_access_denied',
    message: expect.stringContaining('no token'),
  })
})

test('Google without credentials is an answer, and the process lives', async () => {
  const environment = { TEST_GCP_ENDPOINT: NAME, HOME: '/nowhere', METADATA_SERVER_DETECTION: 'none' }
  expect(await read({ type: 'gcp', project: 'p', secretId: 'ssh' }, environment)).toMatchObject({
    code: 'secret_access_denied',
    hint: expect.stringContaining('service account'),
  })
})

/** Where Google's library turns a signed word of its account into a token. */
async function startTokenServer() {
  const server = http.createServer((_request, response) => {
    response.writeHead(200, { 'content-type': 'application/json' })
    response.end(JSON.stringify({ access_token: 't', expires_in: 3600, token_type: 'Bearer' }))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void server.close())
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/token` }
}

async function keyPair() {
  const encoding = {
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  } as const
  return await promisify(generateKeyPair)('rsa', { modulusLength: 2048, ...encoding })
}
