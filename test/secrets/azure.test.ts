import tls from 'node:tls'
import { inspect } from 'node:util'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { JobError } from '../../src/host/errors.ts'
import { systemClock } from '../../src/observability/clock.ts'
import { azureStore } from '../../src/secrets/azure.ts'
import type { AnySecretStore } from '../../src/secrets/secret-store.ts'
import { type AzureStub, putSecret, startAzureStub } from './stores/azure-stub.ts'
import { type Certificate, selfSigned } from './stores/certificates.ts'
import { conforms } from './stores/conformance.ts'
import { httpFaults } from './stores/counterparts-http.ts'
import { startHttpFaultProxy } from './stores/fault-proxy.ts'

// The stub's domain is none of Azure's, so the check of the challenge is off; guard.test.ts has which vaults there may be.

const signal = new AbortController().signal
let certificate: Certificate
/** One for all: the SDK keeps tokens of a managed identity for the whole process. */
let stub: AzureStub
beforeAll(async () => {
  certificate = await selfSigned()
  stub = await startAzureStub({ certificate })
  identify(stub)
  // As NODE_EXTRA_CA_CERTS does at the start of a process.
  tls.setDefaultCACertificates([...tls.getCACertificates('default'), certificate.cert])
})

afterAll(() => stub.stop())

/** The SDK reads these by itself. */
const identify = ({ identity }: AzureStub): void => {
  process.env['IDENTITY_ENDPOINT'] = identity.endpoint
  process.env['IDENTITY_HEADER'] = identity.header
}

const open = (): AnySecretStore => azureStore({ environment: {}, clock: systemClock, checkChallenge: false })
const reference = (vaultUrl: string, name: string) => ({ type: 'azure' as const, vaultUrl, name })

conforms('azure', async () => {
  const proxy = await startHttpFaultProxy(stub.vaultUrl, { certificate, ca: certificate.cert })
  return {
    open,
    put: async (name, fields) => {
      await putSecret(stub, { name, value: JSON.stringify(fields) })
      return reference(proxy.url, name)
    },
    putText: async (name, value) => {
      await putSecret(stub, { name, value })
      return reference(proxy.url, name)
    },
    missing: reference(proxy.url, 'missing'),
    hostile: [
      reference(proxy.url, '../keys/x'),
      reference(proxy.url, 'a/b'),
      reference(proxy.url, 'a?b'),
      reference(`${proxy.url}/secrets/x?`, 'a'),
      reference(`${proxy.url}#`, 'a'),
      reference(proxy.url.replace('https', 'http'), 'a'),
      reference('https://user@x.vault.azure.net', 'a'),
      reference('not a url', 'a'),
    ],
    forbidden: async () => {
      stub.put({ name: 'forbidden', value: '{}' })
      stub.forbid('forbidden')
      return {
        reference: reference(proxy.url, 'forbidden'),
        how: /role assignment create --role "Key Vault Secrets User" .*\/secrets\/forbidden/,
      }
    },
    requests: () => proxy.requests().length,
    faults: httpFaults(proxy, { status: 429, headers: { 'retry-after': '1' }, body: '{}' }),
    distrusted: async () => {
      const impostor = await startHttpFaultProxy(stub.vaultUrl, { certificate: await selfSigned() })
      onTestFinished(() => impostor.close())
      const store = open()
      // Whatever is asked for, the vault is the impostor.
      return {
        store: {
          ...store,
          read: (_of: unknown, options: never) => store.read(reference(impostor.url, 'full') as never, options),
        } as AnySecretStore,
        sent: () => impostor.requests().length,
      }
    },
    stop: proxy.close,
  }
})

describe('Azure', () => {
  const withToken = { AZURE_FEDERATED_TOKEN_FILE: '/nowhere', AZURE_CLIENT_ID: 'x', AZURE_TENANT_ID: 'y' }
  const read = (name: string, store = open()) => store.read(reference(stub.vaultUrl, name) as never, { signal })

  test('a disabled secret is said to be disabled, with the command that enables it', async () => {
    stub.put({ name: 'ssh', value: '{}', enabled: false })
    await expect(read('ssh')).rejects.toMatchObject({
      code: 'secret_access_denied',
      message: expect.stringContaining('disabled'),
      hint: expect.stringContaining('--enabled true'),
    })
  })

  test('a vault that asks for the token of another domain gets none', async () => {
    const before = stub.calls().length
    await expect(read('ssh', azureStore({ environment: {}, clock: systemClock }))).rejects.toMatchObject({
      code: 'secret_store_unreachable',
      message: expect.stringContaining('challenge'),
    })
    expect(
      stub
        .calls()
        .slice(before)
        .map(({ status }) => status),
    ).toEqual([401])
  })

  test('no identity is told as that', async () => {
    await expect(
      read('ssh', azureStore({ environment: withToken, clock: systemClock, checkChallenge: false })),
    ).rejects.toMatchObject({
      code: 'secret_access_denied',
      message: expect.stringContaining('no token'),
    })
  })

  test('a token that is not taken any more is told as that, and never shown', async () => {
    stub.expireTokens()
    const error: JobError = await read('ssh').catch((reason) => reason)
    expect(error).toMatchObject({ code: 'secret_access_denied', message: expect.stringContaining('token') })
    expect(inspect(error, { depth: 9, showHidden: true })).not.toMatch(/Bearer/i)
  })
})
