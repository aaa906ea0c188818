import { describe, expect, test } from 'vitest'
import { JobError } from '../../src/host/errors.ts'
import type { SecretReference } from '../../src/protocol/integration.ts'
import type { CloudProvider } from '../../src/protocol/primitives.ts'
import { materialOf, type SecretMaterial } from '../../src/secrets/material.ts'
import type { AnySecretStore, ReadOptions } from '../../src/secrets/secret-store.ts'
import { secretStores } from '../../src/secrets/stores.ts'
import { fakeClock } from '../connector/fake-clock.ts'

const AZURE: SecretReference = { type: 'azure', vaultUrl: 'https://x.vault.azure.net', name: 'ssh' }
const AWS: SecretReference = { type: 'aws', region: 'eu-west-1', secretId: 'ssh' }
const material = (): SecretMaterial => materialOf('{"base64_private_key":"k"}', '1')

const storeOf = (
  type: AnySecretStore['type'],
  read: (reference: unknown, options: ReadOptions) => Promise<SecretMaterial> = async () => material(),
): AnySecretStore => ({ type, read }) as AnySecretStore

const setUp = (stores: AnySecretStore[], cloud: CloudProvider = 'aws') => {
  const clock = fakeClock()
  return { clock, stores: secretStores(stores, { clock, cloud, deadlineMs: 5000 }) }
}

describe('the stores of a connector', () => {
  test.each([
    ['aws', 'this connector runs in AWS and can read aws, hashicorp_vault, file; the integration names azure'],
    [
      'none',
      'this connector runs in no cloud that it knows of and can read aws, hashicorp_vault, file; the integration names azure',
    ],
  ] as const)('refuse what is of another cloud, by name, where the connector runs in %s', async (cloud, message) => {
    const { stores } = setUp([storeOf('aws'), storeOf('hashicorp_vault'), storeOf('file')], cloud)
    await expect(stores.read(AZURE)).rejects.toMatchObject({ code: 'secret_store_mismatch', message })
    await expect(stores.read(AZURE)).rejects.toMatchObject({
      hint: expect.stringContaining('APONO_CLOUD_PROVIDER=azure'),
    })
  })

  test('settle within the deadline, abort the read, and dispose of what comes later', async () => {
    const { promise, resolve } = Promise.withResolvers<SecretMaterial>()
    let signal: AbortSignal | null = null
    const { stores, clock } = setUp([
      storeOf('aws', (_reference, options) => {
        signal = options.signal
        return promise
      }),
    ])
    const reading = stores.read(AWS)
    const refused = expect(reading).rejects.toMatchObject({ code: 'secret_store_unreachable' })
    await clock.advance(4999)
    expect(signal).toMatchObject({ aborted: false })
    await clock.advance(1)
    await refused
    expect(signal).toMatchObject({ aborted: true })
    const late = material()
    resolve(late)
    await clock.advance(0)
    expect(() => late.privateKey.reveal()).toThrow('disposed')
  })

  test('are called off with the job, and hear what fails afterwards', async () => {
    const { promise, reject } = Promise.withResolvers<SecretMaterial>()
    const { stores, clock } = setUp([storeOf('aws', () => promise)])
    const callOff = new AbortController()
    const reading = stores.read(AWS, { signal: callOff.signal })
    callOff.abort()
    await expect(reading).rejects.toMatchObject({ code: 'cancelled' })
    // An unhandled rejection would fail the run.
    reject(new JobError('secret_store_unreachable', 'late'))
    await clock.advance(0)
    expect(clock.sleepers()).toBe(0)
  })

  test('make a rejection of what a store throws at once', async () => {
    const { stores } = setUp([
      storeOf('aws', () => {
        throw new JobError('secret_not_found', 'gone')
      }),
    ])
    await expect(stores.read(AWS)).rejects.toMatchObject({ code: 'secret_not_found' })
  })

  test('close all, whatever one of them does', async () => {
    const closed: string[] = []
    const closing = (type: AnySecretStore['type']): AnySecretStore => ({
      ...storeOf(type),
      close: async () => {
        closed.push(type)
        throw new Error('cannot')
      },
    })
    await setUp([closing('aws'), closing('hashicorp_vault')]).stores.close()
    expect(closed).toEqual(['aws', 'hashicorp_vault'])
  })
})
