import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, test } from 'vitest'
import { systemClock } from '../../src/observability/clock.ts'
import { detectCloud, httpProbe, type Probe, type ProbeAnswer } from '../../src/secrets/cloud.ts'
import { fakeClock } from '../connector/fake-clock.ts'

const TOKEN = 'AQAEAHYxp0l1RzV0ZXN0LXRva2VuLXRoYXQtaXMtbG9uZy1lbm91Z2g='
const ANSWERS = {
  aws: { status: 200, headers: { 'x-aws-ec2-metadata-token-ttl-seconds': '60' }, text: TOKEN },
  azure: {
    status: 200,
    headers: { 'content-type': 'application/json' },
    text: JSON.stringify({
      compute: { azEnvironment: 'AzurePublicCloud', vmId: '02aab8a4-74ef-476e-8182-f6d2ba4166a6' },
    }),
  },
  gcp: { status: 200, headers: { 'metadata-flavor': 'Google' }, text: 'my-project' },
} as const satisfies Record<string, ProbeAnswer>

const asked: string[] = []
const cloudOf = (url: string): keyof typeof ANSWERS => {
  if (url.includes('/latest/')) return 'aws'
  return url.includes('/computeMetadata/') ? 'gcp' : 'azure'
}
/** What answers at the address that the clouds share. */
const probeOf =
  (answer: (cloud: keyof typeof ANSWERS) => ProbeAnswer | null): Probe =>
  async ({ url }) => {
    asked.push(url)
    return answer(cloudOf(url))
  }
const NOBODY = probeOf(() => null)

const detect = (environment: Record<string, string>, probe: Probe = NOBODY) => {
  asked.length = 0
  return detectCloud({ environment, clock: systemClock, probe })
}

describe('the cloud that the connector runs in', () => {
  test.each([
    ['aws', { AWS_CONTAINER_CREDENTIALS_RELATIVE_URI: '/v2/x' }],
    [
      'aws',
      { AWS_CONTAINER_CREDENTIALS_FULL_URI: 'http://169.254.170.23/v1', AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: '/t' },
    ],
    ['aws', { AWS_WEB_IDENTITY_TOKEN_FILE: '/t', AWS_ROLE_ARN: 'arn:aws:iam::1:role/x' }],
    ['azure', { AZURE_FEDERATED_TOKEN_FILE: '/t' }],
    ['azure', { IDENTITY_ENDPOINT: 'http://127.0.0.1:41741/msi', IDENTITY_HEADER: 'x' }],
    ['gcp', { K_SERVICE: 'connector' }],
    ['gcp', { GCE_METADATA_HOST: '169.254.169.254' }],
  ])('is %s by %j, without a probe', async (provider, environment) => {
    const finding = await detect(environment)
    expect(finding.provider).toBe(provider)
    expect(finding.by.split(' and ').toSorted()).toEqual(Object.keys(environment).toSorted())
    expect(asked).toEqual([])
  })

  test.each([
    { AWS_ACCESS_KEY_ID: 'x', AWS_SECRET_ACCESS_KEY: 'y', AWS_REGION: 'eu-west-1' },
    { AWS_CONTAINER_CREDENTIALS_FULL_URI: 'http://localhost/creds' },
    { AWS_ROLE_ARN: 'arn:aws:iam::1:role/x' },
    { IDENTITY_ENDPOINT: 'http://127.0.0.1/msi' },
    { AWS_CONTAINER_CREDENTIALS_RELATIVE_URI: ' ' },
  ])('is not told by half a signal or by keys that travel: %j', async (environment) => {
    expect(await detect(environment)).toMatchObject({ provider: 'none' })
  })

  test('is none where two clouds have left their mark', async () => {
    const finding = await detect({ K_SERVICE: 'x', AZURE_FEDERATED_TOKEN_FILE: '/t' })
    expect(finding).toEqual({
      provider: 'none',
      by: expect.stringMatching(/AZURE_FEDERATED.* and K_SERVICE.*APONO_CLOUD_PROVIDER/),
    })
  })

  test.each(['aws', 'azure', 'gcp'] as const)('is %s by what its metadata service alone answers', async (cloud) => {
    const finding = await detect(
      {},
      probeOf((one) => (one === cloud ? ANSWERS[cloud] : { status: 404, headers: {}, text: '' })),
    )
    expect(finding.provider).toBe(cloud)
    expect(asked).toHaveLength(3)
  })

  test.each([
    ['a proxy that says no', { status: 403, headers: {}, text: 'denied' }],
    ['a proxy that says yes to everything', { status: 200, headers: {}, text: '<html>welcome</html>' }],
    ['an answer like a token, from nobody', { status: 200, headers: {}, text: TOKEN }],
    ['JSON of somebody else', { status: 200, headers: {}, text: '{"compute":{}}' }],
  ])('is not told by reachability: %s', async (_name, answer) => {
    expect(
      await detect(
        {},
        probeOf(() => answer),
      ),
    ).toMatchObject({ provider: 'none' })
  })

  test('is none where more than one metadata service answers', async () => {
    expect(
      await detect(
        {},
        probeOf((cloud) => ANSWERS[cloud]),
      ),
    ).toMatchObject({
      provider: 'none',
      by: expect.stringContaining('contradict'),
    })
  })

  test('is looked for no longer than a second, whatever hangs, and one that answered counts', async () => {
    const clock = fakeClock()
    const probe: Probe = ({ url }) =>
      cloudOf(url) === 'gcp' ? Promise.resolve(ANSWERS.gcp) : new Promise(() => undefined)
    const finding = detectCloud({ environment: {}, clock, probe })
    await clock.advance(1000)
    expect(await finding).toMatchObject({ provider: 'gcp' })
    expect(clock.sleepers()).toBe(0)
  })

  test('is Kubernetes where it is a pod and no cloud is seen', async () => {
    const pod = { KUBERNETES_SERVICE_HOST: '10.0.0.1', KUBERNETES_SERVICE_PORT: '443' }
    expect(await detect(pod)).toMatchObject({ provider: 'kubernetes' })
    expect(
      await detect(
        pod,
        probeOf((one) => (one === 'aws' ? ANSWERS.aws : null)),
      ),
    ).toMatchObject({ provider: 'aws' })
  })
})

describe('a probe', () => {
  const serve = async (answer: (response: import('node:http').ServerResponse) => void) => {
    const server = createServer((_request, response) => answer(response))
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as AddressInfo
    const ask = () =>
      httpProbe({ method: 'GET', url: `http://127.0.0.1:${port}/`, headers: {}, signal: AbortSignal.timeout(5000) })
    return { ask, close: () => server.close() }
  }

  test('gives what was answered, follows nothing, and is null for what is too long or not there', async () => {
    const moved = await serve((response) => response.writeHead(302, { location: 'http://127.0.0.1:1/' }).end('x'))
    expect(await moved.ask()).toMatchObject({ status: 302, text: 'x' })
    moved.close()
    const long = await serve((response) => response.end('x'.repeat(100_000)))
    expect(await long.ask()).toBeNull()
    long.close()
    expect(
      await httpProbe({ method: 'GET', url: 'http://127.0.0.1:1/', headers: {}, signal: AbortSignal.timeout(5000) }),
    ).toBeNull()
  })

  test('asks no proxy', async () => {
    process.env['HTTP_PROXY'] = 'http://127.0.0.1:1'
    const { ask, close } = await serve((response) => response.end('direct'))
    expect(await ask()).toMatchObject({ text: 'direct' })
    delete process.env['HTTP_PROXY']
    close()
  })
})
