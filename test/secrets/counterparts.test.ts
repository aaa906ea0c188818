import { GetSecretValueCommand, SecretsManagerClient } from '@aws-sdk/client-secrets-manager'
import { ManagedIdentityCredential } from '@azure/identity'
import { SecretClient } from '@azure/keyvault-secrets'
import { SecretManagerServiceClient } from '@google-cloud/secret-manager'
import { credentials, status } from '@grpc/grpc-js'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import * as azure from './stores/azure-stub.ts'
import { selfSigned } from './stores/certificates.ts'
import { startHttpFaultProxy } from './stores/fault-proxy.ts'
import { type GoogleStub, startGoogleStub } from './stores/google-stub.ts'
import * as kube from './stores/kubernetes.ts'
import { adminClient, awsError, type Moto, putSecret, REGION, startMoto } from './stores/moto.ts'
import * as vault from './stores/vault.ts'

// The stores that the tests of ours read from, themselves read from by the official clients.

describe('moto', () => {
  let moto: Moto
  beforeAll(async () => {
    moto = await startMoto()
  })
  afterAll(() => moto?.stop())

  const get = async (SecretId: string, endpoint = moto.endpoint) => {
    const client = adminClient(endpoint)
    try {
      return await client.send(new GetSecretValueCommand({ SecretId }))
    } finally {
      client.destroy()
    }
  }

  test('gives text and bytes, by name and by ARN, and the newest version', async () => {
    const { arn, versionId } = await putSecret(moto.endpoint, { name: 'ours/text', value: 'old', tags: { team: 'a' } })
    expect(await get(arn)).toMatchObject({ SecretString: 'old', VersionId: versionId })
    await putSecret(moto.endpoint, { name: 'ours/text', value: 'new' })
    expect((await get('ours/text')).SecretString).toBe('new')
    await putSecret(moto.endpoint, { name: 'ours/bytes', value: Buffer.from([0, 255]) })
    expect(Buffer.from((await get('ours/bytes')).SecretBinary ?? [])).toEqual(Buffer.from([0, 255]))
    await expect(get('ours/none')).rejects.toMatchObject({ name: 'ResourceNotFoundException' })
  })

  test('asks who it is once it is told to', async () => {
    await putSecret(moto.endpoint, { name: 'ours/guarded', value: 'x' })
    await moto.enforceIam()
    onTestFinished(() => moto.relaxIam())
    await expect(get('ours/guarded')).rejects.toMatchObject({ $metadata: { httpStatusCode: 403 } })
    await moto.relaxIam()
    expect((await get('ours/guarded')).SecretString).toBe('x')
  })

  test('is had through a proxy that fails as it is told, and then not', async () => {
    await putSecret(moto.endpoint, { name: 'ours/far', value: 'far' })
    const proxy = await startHttpFaultProxy(moto.endpoint)
    onTestFinished(() => proxy.close())
    proxy.plan({ status: 503 }, { reset: true }, awsError('AccessDeniedException', 'not for you'))
    // The client itself tries again after the first two.
    await expect(get('ours/far', proxy.url)).rejects.toMatchObject({ name: 'AccessDeniedException' })
    expect((await get('ours/far', proxy.url)).SecretString).toBe('far')
    expect(proxy.requests()).toHaveLength(4)
  })

  test('is not believed behind a certificate of somebody', async () => {
    const proxy = await startHttpFaultProxy(moto.endpoint, { certificate: await selfSigned() })
    onTestFinished(() => proxy.close())
    const own = { accessKeyId: 'a', secretAccessKey: 'b' }
    const client = new SecretsManagerClient({ endpoint: proxy.url, region: REGION, credentials: own, maxAttempts: 1 })
    await expect(client.send(new GetSecretValueCommand({ SecretId: 'x' }))).rejects.toThrow('self-signed certificate')
    expect(proxy.requests()).toEqual([])
  })
})

describe('ours for Azure', () => {
  const start = async () => {
    const stub = await azure.startAzureStub()
    onTestFinished(() => stub.stop())
    return stub
  }

  test('challenges, takes a token, gives a secret and its versions', async () => {
    const stub = await start()
    const { properties } = await azure.putSecret(stub, { name: 'Key', value: 'old', contentType: 'text/plain' })
    stub.put({ name: 'key', value: 'new' })
    const client = azure.azureClient(stub, stub.token())
    expect((await client.getSecret('key')).value).toBe('new')
    const version = properties.version ?? ''
    expect(await client.getSecret('key', { version })).toMatchObject({
      value: 'old',
      properties: { version, contentType: 'text/plain', enabled: true },
    })
    // The first of each client: unauthenticated, for the challenge.
    expect(stub.calls().map((call) => call.status)).toEqual([401, 200, 401, 200, 200])
  })

  test.each([
    ['none', 404, 'SecretNotFound'],
    ['disabled', 403, 'Forbidden'],
    ['secret', 403, 'Forbidden'],
  ])('refuses the secret %s with %i %s', async (name, statusCode, code) => {
    const stub = await start()
    stub.put({ name: 'disabled', value: 'x', enabled: false })
    stub.forbid('secret')
    const read = azure.azureClient(stub, stub.token()).getSecret(name)
    await expect(read).rejects.toMatchObject({ statusCode, code })
  })

  test('gives a managed identity its tokens', async () => {
    const stub = await start()
    stub.put({ name: 'key', value: 'x' })
    vi.stubEnv('IDENTITY_ENDPOINT', stub.identity.endpoint)
    vi.stubEnv('IDENTITY_HEADER', stub.identity.header)
    onTestFinished(() => void vi.unstubAllEnvs())
    const client = new SecretClient(stub.vaultUrl, new ManagedIdentityCredential(), {
      disableChallengeResourceVerification: true,
      tlsOptions: { ca: stub.certificate.cert },
    })
    expect((await client.getSecret('key')).value).toBe('x')
  })

  test('takes no token that has expired', async () => {
    const stub = await start()
    const token = stub.token()
    stub.expireTokens()
    await expect(azure.azureClient(stub, token).getSecret('key')).rejects.toMatchObject({ statusCode: 401 })
  })

  test('is had through a proxy', async () => {
    const stub = await start()
    stub.put({ name: 'key', value: 'x' })
    const { certificate } = stub
    const proxy = await startHttpFaultProxy(stub.vaultUrl, { certificate, ca: certificate.cert })
    onTestFinished(() => proxy.close())
    proxy.plan({ status: 429, headers: { 'retry-after': '0' } })
    const client = azure.azureClient({ ...stub, vaultUrl: proxy.url }, stub.token())
    expect((await client.getSecret('key')).value).toBe('x')
  })
})

describe('ours for Google', () => {
  // The client would ask the network whether it runs in Google's cloud.
  beforeAll(() => void vi.stubEnv('METADATA_SERVER_DETECTION', 'none'))
  afterAll(() => void vi.unstubAllEnvs())

  const name = 'projects/p/secrets/s/versions/latest'
  const start = async (options: Parameters<typeof startGoogleStub>[0] = {}) => {
    const stub = await startGoogleStub(options)
    onTestFinished(() => stub.stop())
    return stub
  }
  const clientOf = ({ port }: GoogleStub, sslCreds = credentials.createInsecure()) => {
    const client = new SecretManagerServiceClient({ apiEndpoint: 'localhost', port, sslCreds })
    onTestFinished(() => client.close())
    return client
  }

  test('gives the latest version, and any', async () => {
    const stub = await start()
    stub.put('projects/p/secrets/s', 'old')
    stub.put('projects/p/secrets/s', '123456789')
    const client = clientOf(stub)
    const [latest] = await client.accessSecretVersion({ name })
    expect(latest.name).toBe('projects/p/secrets/s/versions/2')
    expect(String(latest.payload?.data)).toBe('123456789')
    // The check value that every description of CRC-32C gives.
    expect(Number(latest.payload?.dataCrc32c)).toBe(0xe3069283)
    const [first] = await client.accessSecretVersion({ name: 'projects/p/secrets/s/versions/1' })
    expect(String(first.payload?.data)).toBe('old')
  })

  test('refuses with the codes that Google has', async () => {
    const stub = await start()
    const client = clientOf(stub)
    const read = () => client.accessSecretVersion({ name })
    await expect(read()).rejects.toMatchObject({ code: status.NOT_FOUND })
    stub.setState(stub.put('projects/p/secrets/s', 'x'), 'DISABLED')
    await expect(read()).rejects.toMatchObject({ code: status.FAILED_PRECONDITION })
    stub.forbid('projects/p/secrets/s')
    await expect(read()).rejects.toMatchObject({ code: status.PERMISSION_DENIED })
    stub.plan({ code: status.INTERNAL })
    await expect(read()).rejects.toMatchObject({ code: status.INTERNAL })
    stub.plan({ hang: true })
    const late = client.accessSecretVersion({ name }, { timeout: 200, maxRetries: 0 })
    await expect(late).rejects.toMatchObject({ code: status.DEADLINE_EXCEEDED })
    expect(stub.calls()).toHaveLength(5)
  })

  test('speaks TLS, and takes a token then', async () => {
    const certificate = await selfSigned()
    const stub = await start({ certificate, admit: (token) => token === 'good' })
    stub.put('projects/p/secrets/s', 'x')
    const tls = credentials.createSsl(Buffer.from(certificate.cert))
    const by = (token: string) =>
      credentials.combineChannelCredentials(
        tls,
        credentials.createFromGoogleCredential({
          getRequestHeaders: async () => ({ Authorization: `Bearer ${token}` }),
        }),
      )
    const [read] = await clientOf(stub, by('good')).accessSecretVersion({ name })
    expect(String(read.payload?.data)).toBe('x')
    const refused = clientOf(stub, by('bad')).accessSecretVersion({ name })
    await expect(refused).rejects.toMatchObject({ code: status.UNAUTHENTICATED })
  })
})

const [image, kubernetesImage] = await Promise.all([vault.vaultImage(), kube.kubernetesImage()])
if (image === null) process.stderr.write(`not exercised here: ${vault.VAULT} is not here\n`)
if (kubernetesImage === null) process.stderr.write(`not exercised here: ${kube.KUBERNETES} is not here\n`)

if (image !== null)
  describe('vault', () => {
    test('gives a secret and its versions, to whom a policy lets read it', async () => {
      const started = await vault.startVault(image ?? '')
      onTestFinished(() => started.stop())
      await vault.putSecret(started, { path: 'ours/key', data: { value: 'old' } })
      expect(await vault.putSecret(started, { path: 'ours/key', data: { value: 'new' } })).toBe(2)
      const read = (query = '', token?: string) =>
        vault.vaultRequest(started, 'GET', `secret/data/ours/key${query}`, undefined, token)
      expect(await read()).toMatchObject({ data: { data: { value: 'new' }, metadata: { version: 2 } } })
      expect(await read('?version=1')).toMatchObject({ data: { data: { value: 'old' } } })
      const policy = 'path "secret/data/ours/*" { capabilities = ["read"] }'
      await vault.vaultRequest(started, 'PUT', 'sys/policies/acl/reader', { policy })
      expect(await read('', await vault.newToken(started, ['reader']))).toMatchObject({
        data: { data: { value: 'new' } },
      })
      await expect(read('', await vault.newToken(started, ['default']))).rejects.toThrow('permission denied')
    })
  })

if (kubernetesImage !== null)
  describe('kubernetes', () => {
    test('gives a secret to a service account that may read it', async () => {
      const started = await kube.startKubernetes(kubernetesImage ?? '')
      onTestFinished(() => started.stop())
      await kube.putSecret(started, { namespace: 'default', name: 'ours', data: { value: 'x' } })
      await kube.putSecret(started, { namespace: 'default', name: 'others', data: { value: 'y' } })
      const token = await kube.readerToken(started, { namespace: 'default', name: 'reader', secrets: ['ours'] })
      const read = (name: string, by: string) =>
        kube.kubernetesRequest(started, 'GET', `/api/v1/namespaces/default/secrets/${name}`, undefined, by)
      expect(await read('ours', token)).toMatchObject({ data: { value: Buffer.from('x').toString('base64') } })
      await expect(read('others', token)).rejects.toThrow(
        'secrets \\"others\\" is forbidden: User \\"system:serviceaccount:default:reader\\" cannot get resource',
      )
      await expect(read('ours', 'nobody')).rejects.toThrow('kubernetes answered 401')
    })
  })
