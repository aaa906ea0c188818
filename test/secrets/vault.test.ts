import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { systemClock } from '../../src/observability/clock.ts'
import type { SecretReference } from '../../src/protocol/integration.ts'
import { type SecretStores, secretStores } from '../../src/secrets/stores.ts'
import { vaultStore } from '../../src/secrets/vault.ts'
import { readVaultConfig, type VaultConfig } from '../../src/secrets/vault-config.ts'
import { fakeClock } from '../connector/fake-clock.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { selfSigned } from './stores/certificates.ts'
import { conforms } from './stores/conformance.ts'
import { httpFaults } from './stores/counterparts-http.ts'
import { startHttpFaultProxy } from './stores/fault-proxy.ts'
import { startVaultStub, type VaultStub } from './stores/vault-stub.ts'

type Env = Record<string, string>

const configOf = (environment: Env): VaultConfig => {
  const problems: string[] = []
  const config = readVaultConfig(environment, (problem) => void problems.push(problem))
  if (config === null || problems.length > 0) throw new Error(problems.join('\n') || 'no Vault')
  return config
}

const fileOf = (text: string): string => {
  const file = path.join(scratchDirectory(), 'file')
  writeFileSync(file, text, { mode: 0o600 })
  return file
}

const storeAt = (url: string, caFile: string, environment: Env, clock = systemClock) =>
  vaultStore({
    config: configOf({ VAULT_ADDR: url, VAULT_CACERT: caFile, ...environment }),
    environment: {},
    clock,
    random: randomBytes,
  })

const reference = (secretEngine: string, at: string) => ({ type: 'hashicorp_vault' as const, secretEngine, path: at })

for (const engine of ['kv1', 'kv2'] as const) {
  conforms(`hashicorp_vault with ${engine}`, async () => {
    const stub = await startVaultStub()
    const ca = fileOf(stub.certificate.cert)
    const proxy = await startHttpFaultProxy(stub.url, { certificate: stub.certificate, ca: stub.certificate.cert })
    stub.put(engine, 'forbidden', { base64_private_key: 'k' })
    stub.forbid('forbidden')
    const token = { VAULT_TOKEN: stub.rootToken }
    return {
      open: () => storeAt(proxy.url, ca, token),
      put: async (name, fields) => {
        stub.put(engine, `team/${name}`, fields)
        return reference(engine, `team/${name}`)
      },
      missing: reference(engine, 'missing'),
      hostile: [
        reference(engine, '../sys/seal'),
        reference(engine, 'a/../b'),
        reference(engine, '/a'),
        reference(engine, 'a//b'),
        reference(engine, 'a?list=true'),
        reference(engine, 'a%2e%2e'),
        reference('..', 'a'),
        reference('sys/', 'a'),
        reference(`${engine}\n`, 'a'),
      ],
      forbidden: async () => ({
        reference: reference(engine, 'forbidden'),
        how: new RegExp(`path "${engine}/(?:data/)?forbidden" \\{ capabilities = \\["read"\\] \\}`),
      }),
      requests: () => proxy.requests().length,
      faults: httpFaults(proxy, { status: 429, body: '{}' }),
      distrusted: async () => {
        const impostor = await startHttpFaultProxy(stub.url, { certificate: await selfSigned() })
        onTestFinished(() => impostor.close())
        return { store: storeAt(impostor.url, ca, token), sent: () => impostor.requests().length }
      },
      stop: async () => {
        await proxy.close()
        await stub.stop()
      },
    }
  }, ['putText'])
}

const start = async (): Promise<VaultStub> => {
  const stub = await startVaultStub()
  onTestFinished(() => stub.stop())
  stub.put('kv2', 'ssh', { base64_private_key: 'k' })
  return stub
}

const readerOf = (stub: VaultStub, environment: Env, clock = systemClock) => {
  const store = storeAt(stub.url, fileOf(stub.certificate.cert), environment, clock)
  const stores: SecretStores = secretStores([store], { clock: systemClock, cloud: 'none', deadlineMs: 5000 })
  onTestFinished(() => stores.close())
  return { stores, read: (of: SecretReference = reference('kv2', 'ssh')) => stores.read(of) }
}

const APPROLE = { APONO_VAULT_AUTH: 'approle', APONO_VAULT_ROLE_ID: 'role' }

describe('logging in to Vault', () => {
  test('by AppRole, with a secret id of a file that is read anew, and the token is given back at the end', async () => {
    const stub = await start()
    stub.admit('approle', ({ role_id, secret_id }) => role_id === 'role' && secret_id === 'second')
    const file = fileOf('first\n')
    const { read, stores } = readerOf(stub, { ...APPROLE, APONO_VAULT_SECRET_ID_FILE: file })
    await expect(read()).rejects.toMatchObject({
      code: 'secret_access_denied',
      message: expect.stringContaining('approle'),
    })
    writeFileSync(file, 'second\n')
    await read()
    await read()
    expect([stub.logins(), stub.tokens()]).toEqual([2, 1])
    await stores.close()
    expect(stub.tokens()).toBe(0)
  })

  test('once for all reads that want it', async () => {
    const stub = await start()
    stub.admit('approle', () => true)
    const { read } = readerOf(stub, { ...APPROLE, APONO_VAULT_SECRET_ID: 's' })
    await Promise.all([read(), read(), read()])
    expect(stub.logins()).toBe(1)
  })

  test('anew, once, when its token is not taken any more', async () => {
    const stub = await start()
    stub.admit('approle', () => true)
    const { read } = readerOf(stub, { ...APPROLE, APONO_VAULT_SECRET_ID: 's' })
    await read()
    stub.expireTokens()
    await read()
    expect(stub.logins()).toBe(2)
    stub.forbid('ssh')
    await expect(read()).rejects.toMatchObject({
      code: 'secret_access_denied',
      hint: expect.stringContaining('policy'),
    })
    expect(stub.logins()).toBe(2)
  })

  test('that hangs holds up nobody who comes later', async () => {
    const stub = await start()
    stub.admit('approle', () => true)
    const proxy = await startHttpFaultProxy(stub.url, { certificate: stub.certificate, ca: stub.certificate.cert })
    onTestFinished(() => proxy.close())
    proxy.plan({ hang: true })
    const { stores, read } = readerOf({ ...stub, url: proxy.url }, { ...APPROLE, APONO_VAULT_SECRET_ID: 's' })
    const callOff = new AbortController()
    const first = stores.read(reference('kv2', 'ssh'), { signal: callOff.signal })
    await expect.poll(() => proxy.requests().length).toBe(1)
    callOff.abort()
    await expect(first).rejects.toMatchObject({ code: 'cancelled' })
    const began = performance.now()
    await read()
    expect(performance.now() - began).toBeLessThan(1500)
  })

  test.each([412, 472, 473, 503])('refused by a Vault that only stands by (%i) is no refusal', async (status) => {
    const stub = await start()
    const proxy = await startHttpFaultProxy(stub.url, { certificate: stub.certificate, ca: stub.certificate.cert })
    onTestFinished(() => proxy.close())
    proxy.always({ status, body: '{}' })
    const { read } = readerOf({ ...stub, url: proxy.url }, { ...APPROLE, APONO_VAULT_SECRET_ID: 's' })
    await expect(read()).rejects.toMatchObject({ code: 'secret_store_unreachable' })
  })

  test('goes past the proxy where Vault is on this machine', async () => {
    const stub = await start()
    const plain = await startHttpFaultProxy(stub.url, { ca: stub.certificate.cert })
    const proxy = await startHttpFaultProxy('http://127.0.0.1:1')
    onTestFinished(async () => void (await Promise.all([plain.close(), proxy.close()])))
    const config = configOf({ VAULT_ADDR: plain.url, VAULT_TOKEN: stub.rootToken })
    const environment = { HTTP_PROXY: proxy.url, HTTPS_PROXY: proxy.url, NO_PROXY: 'elsewhere' }
    const store = vaultStore({ config, environment, clock: systemClock, random: randomBytes })
    onTestFinished(async () => void (await store.close?.()))
    await store.read(reference('kv2', 'ssh'), { signal: new AbortController().signal })
    expect(proxy.requests()).toEqual([])
  })

  test('anew before its token ends', async () => {
    const stub = await start()
    stub.admit('approle', () => true, 100)
    const clock = fakeClock()
    const { read } = readerOf(stub, { ...APPROLE, APONO_VAULT_SECRET_ID: 's' }, clock)
    await read()
    await clock.advance(79_000)
    await read()
    expect(stub.logins()).toBe(1)
    await clock.advance(2000)
    await read()
    expect(stub.logins()).toBe(2)
    await expect.poll(() => stub.tokens()).toBe(1)
  })

  test("by the pod's service account", async () => {
    const stub = await start()
    stub.admit('cluster/prod', ({ role, jwt }) => role === 'connector' && jwt === 'the-jwt')
    const { read } = readerOf(stub, {
      APONO_VAULT_AUTH: 'kubernetes',
      APONO_VAULT_AUTH_MOUNT: 'cluster/prod',
      APONO_VAULT_ROLE: 'connector',
      APONO_VAULT_JWT_FILE: fileOf('the-jwt\n'),
    })
    expect((await read()).privateKey.reveal()).toBe('k')
  })

  test('by an identity of AWS: a request that only AWS can judge, signed with the header that Vault demands', async () => {
    const stub = await start()
    let sent: Env = {}
    stub.admit('aws', (body) => {
      sent = body
      return body['role'] === 'connector'
    })
    const keys = {
      AWS_ACCESS_KEY_ID: 'AKIDEXAMPLE',
      AWS_SECRET_ACCESS_KEY: 'wJalrXUtnFEMI',
      AWS_SESSION_TOKEN: 'session',
    }
    Object.assign(process.env, keys)
    onTestFinished(() => {
      for (const name of Object.keys(keys)) delete process.env[name]
    })
    const { read } = readerOf(stub, {
      APONO_VAULT_AUTH: 'aws',
      APONO_VAULT_ROLE: 'connector',
      APONO_VAULT_AWS_REGION: 'eu-west-1',
      APONO_VAULT_AWS_SERVER_ID: 'vault.example.com',
    })
    await read()
    const decoded = (name: string): string => Buffer.from(sent[name] ?? '', 'base64').toString()
    expect(sent['iam_http_request_method']).toBe('POST')
    expect(decoded('iam_request_url')).toBe('https://sts.eu-west-1.amazonaws.com/')
    expect(decoded('iam_request_body')).toBe('Action=GetCallerIdentity&Version=2011-06-15')
    const headers = JSON.parse(decoded('iam_request_headers')) as Env
    expect(headers['authorization']).toMatch(
      /^AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE\/\d{8}\/eu-west-1\/sts\/aws4_request, SignedHeaders=[^,]*x-vault-aws-iam-server-id[^,]*, Signature=[0-9a-f]{64}$/,
    )
    expect(headers['x-amz-security-token']).toBe('session')
    expect(JSON.stringify(sent)).not.toContain(keys.AWS_SECRET_ACCESS_KEY)
  })

  test('by a token of a file that somebody else renews', async () => {
    const stub = await start()
    const file = fileOf('old')
    const { read } = readerOf(stub, { APONO_VAULT_TOKEN_FILE: file })
    await expect(read()).rejects.toMatchObject({ code: 'secret_access_denied' })
    writeFileSync(file, `${stub.rootToken}\n`)
    await read()
    const gone = readerOf(stub, { APONO_VAULT_TOKEN_FILE: '/nowhere/token' })
    await expect(gone.read()).rejects.toMatchObject({ message: expect.stringContaining('ENOENT') })
  })
})

test('what a policy does not allow is no reason to ask again', async () => {
  const stub = await start()
  const proxy = await startHttpFaultProxy(stub.url, { certificate: stub.certificate, ca: stub.certificate.cert })
  onTestFinished(() => proxy.close())
  const { read } = readerOf({ ...stub, url: proxy.url }, { VAULT_TOKEN: stub.rootToken })
  await read()
  stub.forbid('ssh')
  const before = proxy.requests().length
  await expect(read()).rejects.toMatchObject({ code: 'secret_access_denied' })
  expect(
    proxy
      .requests()
      .slice(before)
      .map((one) => one.path),
  ).toEqual(['/v1/kv2/data/ssh', '/v1/auth/token/lookup-self'])
})

describe('engines of Vault', () => {
  test('are asked as version 2, and as nothing else, where nobody tells which version they are', async () => {
    const stub = await start()
    stub.hideMounts()
    for (const engine of ['kv1', 'kv2'] as const) stub.put(engine, 'hidden', { base64_private_key: engine })
    const { read } = readerOf(stub, { VAULT_TOKEN: stub.rootToken })
    expect((await read(reference('kv2', 'hidden'))).privateKey.reveal()).toBe('kv2')
    await expect(read(reference('kv1', 'hidden'))).rejects.toMatchObject({ code: 'secret_not_found' })
    expect(stub.asked()).not.toContain('/v1/kv1/hidden')
  })

  test('of another kind are not read: reading from some of them does something', async () => {
    const stub = await start()
    const { read } = readerOf(stub, { VAULT_TOKEN: stub.rootToken })
    await expect(read(reference('aws', 'creds/admin'))).rejects.toMatchObject({
      code: 'secret_access_denied',
      message: 'the engine aws is of the type aws, and only kv is read',
    })
    expect(stub.asked()).toEqual(['/v1/sys/internal/ui/mounts/aws'])
  })

  test('are those of the namespace', async () => {
    const stub = await start()
    stub.put('kv2', 'ssh', { base64_private_key: 'of the team' }, 'org/team')
    const { read } = readerOf(stub, { VAULT_TOKEN: stub.rootToken, VAULT_NAMESPACE: '/org/team/' })
    expect((await read()).privateKey.reveal()).toBe('of the team')
  })

  test('of version 1 say nothing of what they hold by their version, not even by its hash', async () => {
    const stub = await start()
    stub.put('kv1', 'ssh', { base64_private_key: 'k' })
    const [one, other] = [
      readerOf(stub, { VAULT_TOKEN: stub.rootToken }),
      readerOf(stub, { VAULT_TOKEN: stub.rootToken }),
    ]
    const versions = await Promise.all(
      [one, one, other].map(async ({ read }) => (await read(reference('kv1', 'ssh'))).version),
    )
    expect(versions[0]).toBe(versions[1])
    expect(versions[0]).not.toBe(versions[2])
  })
})

describe('the configuration of Vault', () => {
  const problemsOf = (environment: Env): string[] => {
    const problems: string[] = []
    readVaultConfig(
      { VAULT_ADDR: 'https://vault:8200', VAULT_TOKEN: 't', ...environment },
      (text) => void problems.push(text),
    )
    return problems
  }

  test('is none without an address', () => {
    expect(readVaultConfig({ VAULT_TOKEN: 't' }, () => undefined)).toBeNull()
  })

  test.each<[Env, RegExp]>([
    [{ VAULT_ADDR: 'http://vault:8200' }, /^VAULT_ADDR: http/],
    [{ VAULT_ADDR: 'ftp://vault' }, /^VAULT_ADDR/],
    [{ VAULT_ADDR: 'vault:8200' }, /^VAULT_ADDR/],
    [{ VAULT_ADDR: 'https://user:pass-word@vault' }, /^VAULT_ADDR/],
    [{ VAULT_ADDR: 'https://vault/ui' }, /^VAULT_ADDR/],
    [{ VAULT_NAMESPACE: '../admin' }, /^VAULT_NAMESPACE/],
    [{ VAULT_TOKEN: '' }, /^VAULT_TOKEN/],
    [{ APONO_VAULT_TOKEN_FILE: '/t' }, /^VAULT_TOKEN/],
    [{ APONO_VAULT_AUTH: 'ldap' }, /^APONO_VAULT_AUTH: must be one of token, approle, kubernetes, aws/],
    [{ APONO_VAULT_AUTH: 'approle' }, /^APONO_VAULT_ROLE_ID: required/],
    [{ APONO_VAULT_AUTH: 'kubernetes' }, /^APONO_VAULT_ROLE: required/],
    [{ ...APPROLE, APONO_VAULT_SECRET_ID: 'a', APONO_VAULT_SECRET_ID_FILE: 'b' }, /^APONO_VAULT_SECRET_ID/],
    [{ ...APPROLE, APONO_VAULT_AUTH_MOUNT: '../sys' }, /^APONO_VAULT_AUTH_MOUNT/],
    [
      { APONO_VAULT_AUTH: 'aws', APONO_VAULT_ROLE: 'r', APONO_VAULT_AWS_REGION: 'evil.com/' },
      /^APONO_VAULT_AWS_REGION/,
    ],
  ])('%j: %s', (environment, problem) => {
    const problems = problemsOf(environment)
    expect(problems).toEqual([expect.stringMatching(problem)])
    expect(problems.join()).not.toContain('pass-word')
  })

  test.each<Env>([
    { VAULT_ADDR: 'http://127.0.0.1:8200' },
    { VAULT_ADDR: 'http://[::1]:8200' },
    { APPROLE: '', ...APPROLE },
    { APONO_VAULT_AUTH: 'aws', APONO_VAULT_ROLE: 'r' },
  ])('%j is fine', (environment) => {
    expect(problemsOf(environment)).toEqual([])
  })

  test('cannot be printed where it is secret', () => {
    expect(JSON.stringify(configOf({ VAULT_ADDR: 'https://v', VAULT_TOKEN: 'very-private' }))).not.toContain(
      'very-private',
    )
  })
})
