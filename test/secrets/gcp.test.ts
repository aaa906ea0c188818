import { randomBytes } from 'node:crypto'
import { ChannelCredentials, status } from '@grpc/grpc-js'
import { OAuth2Client } from 'google-auth-library'
import { describe, expect, onTestFinished, test } from 'vitest'
import { systemClock } from '../../src/observability/clock.ts'
import { gcpStore } from '../../src/secrets/gcp.ts'
import type { AnySecretStore } from '../../src/secrets/secret-store.ts'
import { selfSigned } from './stores/certificates.ts'
import { conforms } from './stores/conformance.ts'
import { startGoogleStub } from './stores/google-stub.ts'

// The official client, and a server of ours from the protos that come with it.

const signal = new AbortController().signal
const reference = (secretId: string, project = 'my-project') => ({ type: 'gcp' as const, project, secretId })
const nameOf = (secretId: string): string => `projects/my-project/secrets/${secretId}`

const open = (port: number, sslCreds = ChannelCredentials.createInsecure()): AnySecretStore => {
  const authClient = new OAuth2Client()
  authClient.setCredentials({ access_token: 'of the test', expiry_date: Date.now() + 3_600_000 })
  return gcpStore({
    environment: {},
    clock: systemClock,
    random: randomBytes,
    client: { apiEndpoint: '127.0.0.1', port, sslCreds, authClient: authClient as never },
  })
}

conforms('gcp', async () => {
  const stub = await startGoogleStub()
  return {
    open: () => open(stub.port),
    put: async (name, fields) => {
      stub.put(nameOf(name), JSON.stringify(fields))
      return reference(name)
    },
    putText: async (name, text) => {
      stub.put(nameOf(name), text)
      return reference(name)
    },
    missing: reference('missing'),
    hostile: [
      reference('../x'),
      reference('a/versions/1'),
      reference('a', 'p/secrets/x'),
      reference('a', '../other'),
      reference('a b'),
    ],
    forbidden: async () => {
      stub.put(nameOf('forbidden'), '{}')
      stub.forbid(nameOf('forbidden'))
      return {
        reference: reference('forbidden'),
        how: /add-iam-policy-binding forbidden --role roles\/secretmanager.secretAccessor --project my-project/,
      }
    },
    requests: () => stub.calls().length,
    faults: {
      fail: (times) => stub.plan(...Array.from({ length: times }, () => ({ code: status.UNAVAILABLE }))),
      throttle: (times) => stub.plan(...Array.from({ length: times }, () => ({ code: status.RESOURCE_EXHAUSTED }))),
      hangOnce: () => stub.plan({ hang: true }),
      down: () => stub.always({ code: status.UNAVAILABLE }),
      hang: () => stub.always({ hang: true }),
      mend: () => stub.always(null),
    },
    distrusted: async () => {
      const impostor = await startGoogleStub({ certificate: await selfSigned() })
      onTestFinished(() => void impostor.stop())
      return { store: open(impostor.port, ChannelCredentials.createSsl()), sent: () => impostor.calls().length }
    },
    stop: async () => void stub.stop(),
  }
})

describe('Google', () => {
  test('a secret that was deleted and made anew has another version, though Google gives it the same number', async () => {
    const stub = await startGoogleStub()
    onTestFinished(() => void stub.stop())
    const store = open(stub.port)
    stub.put(nameOf('ssh'), '{"base64_private_key":"leaked"}')
    const first = await store.read(reference('ssh') as never, { signal })
    stub.remove(nameOf('ssh'))
    expect(stub.put(nameOf('ssh'), '{"base64_private_key":"new"}')).toMatch(/versions\/1$/)
    const second = await store.read(reference('ssh') as never, { signal })
    expect(second.privateKey.reveal()).toBe('new')
    expect(second.version).not.toBe(first.version)
  })

  test('a token that is not taken any more is told as that', async () => {
    const stub = await startGoogleStub()
    onTestFinished(() => void stub.stop())
    stub.put(nameOf('ssh'), '{"base64_private_key":"k"}')
    const store = open(stub.port)
    stub.plan({ code: status.UNAUTHENTICATED })
    await expect(store.read(reference('ssh') as never, { signal })).rejects.toMatchObject({
      code: 'secret_access_denied',
      message: expect.stringContaining('no token'),
    })
    expect((await store.read(reference('ssh') as never, { signal })).privateKey.reveal()).toBe('k')
  })

  test('a newest version that is disabled is told as that', async () => {
    const stub = await startGoogleStub()
    onTestFinished(() => void stub.stop())
    const version = stub.put(nameOf('ssh'), '{"base64_private_key":"k"}')
    stub.setState(version, 'DISABLED')
    await expect(open(stub.port).read(reference('ssh') as never, { signal })).rejects.toMatchObject({
      code: 'secret_not_found',
      hint: expect.stringContaining('versions enable'),
    })
  })
})
