import { randomBytes } from 'node:crypto'
import { describe, expect, onTestFinished, test } from 'vitest'
import { openStores } from '../../src/connector/secret-stores.ts'
import type { JobError } from '../../src/host/errors.ts'
import type { SecretReference } from '../../src/protocol/integration.ts'
import type { Probe } from '../../src/secrets/cloud.ts'
import { fakeClock } from '../connector/fake-clock.ts'
import { configOf } from './setup.ts'

const GOOGLE: Probe = async ({ url }) =>
  url.includes('computeMetadata') ? { status: 200, headers: { 'metadata-flavor': 'Google' }, text: 'p' } : null
const NOBODY: Probe = async () => null
const GCP: SecretReference = { type: 'gcp', project: 'p', secretId: '../no-name' }
const AWS: SecretReference = { type: 'aws', region: 'eu-west-1', secretId: 'x' }

const setUp = async (environment: Record<string, string>, answer: () => Probe) => {
  const clock = fakeClock()
  let looks = 0
  const probe: Probe = (request) => {
    looks++
    return answer()(request)
  }
  const config = configOf({ APONO_URL: 'https://x.example', APONO_CLOUD_PROVIDER: '', ...environment })
  const stores = await openStores(config, { clock, random: randomBytes, environment, probe })
  onTestFinished(() => stores.close())
  const codeOf = (reference: SecretReference): Promise<string> =>
    stores.read(reference).then(
      () => 'read',
      ({ code }: JobError) => code,
    )
  // Three clouds are asked at each look.
  return { clock, stores, codeOf, looks: () => looks / 3 }
}

describe('the stores of a connector', () => {
  test('are those of its cloud, and those that are anywhere and there', async () => {
    const aws = await setUp({ APONO_CLOUD_PROVIDER: 'aws', VAULT_ADDR: 'https://v', VAULT_TOKEN: 't' }, () => NOBODY)
    expect(aws.stores.types).toEqual(['aws', 'hashicorp_vault', 'file'])
    const pod = { KUBERNETES_SERVICE_HOST: '10.0.0.1', KUBERNETES_SERVICE_PORT: '443' }
    expect((await setUp(pod, () => GOOGLE)).stores.types).toEqual(['gcp', 'kubernetes', 'file'])
    expect((await setUp({}, () => NOBODY)).stores.types).toEqual(['file'])
    expect(aws.looks()).toBe(0)
  })

  test('of a cloud that was not seen at the start are there when it is', async () => {
    let probe = NOBODY
    const { clock, stores, codeOf, looks } = await setUp({}, () => probe)
    probe = GOOGLE
    expect(await codeOf(GCP)).toBe('secret_store_mismatch')
    expect(looks()).toBe(1)
    await clock.advance(60_000)
    // Read by the store, which has no such name.
    expect(await Promise.all([codeOf(GCP), codeOf(GCP)])).toEqual(['secret_not_found', 'secret_not_found'])
    expect(looks()).toBe(2)
    expect([stores.cloud.provider, stores.types]).toEqual(['gcp', ['gcp', 'file']])
    await clock.advance(60_000)
    expect(await codeOf(AWS)).toBe('secret_store_mismatch')
    expect(looks()).toBe(2)
  })

  test('are not looked for again where somebody has said which cloud it is', async () => {
    const { clock, codeOf, looks } = await setUp({ APONO_CLOUD_PROVIDER: 'none' }, () => GOOGLE)
    await clock.advance(60_000)
    expect(await codeOf(GCP)).toBe('secret_store_mismatch')
    expect(looks()).toBe(0)
  })
})
