import { request } from 'undici'
import { z } from 'zod'
import type { Clock } from '../observability/clock.ts'
import type { CloudProvider } from '../protocol/primitives.ts'
import { isInCluster } from './kubernetes.ts'
import type { Environment } from './network.ts'

/**
 * Which cloud the connector runs in, and so whose store it may read: what an admin says decides, then what clouds put
 * into a workload's environment, then what answers at the address of the metadata service. All clouds share that address,
 * and a proxy may answer for it: only an answer that the one cloud alone gives counts, and never two of them.
 */
export interface CloudFinding {
  readonly provider: CloudProvider
  /** For the log: the variable or the probe that decided; what contradicts itself; or that nothing was found. */
  readonly by: string
}

type Cloud = Exclude<CloudProvider, 'kubernetes' | 'none'>

/** Any of the lists; of a list, every variable. */
const SIGNALS: Readonly<Record<Cloud, readonly (readonly string[])[]>> = {
  aws: [
    ['AWS_CONTAINER_CREDENTIALS_RELATIVE_URI'],
    ['AWS_CONTAINER_CREDENTIALS_FULL_URI', 'AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE'],
    ['AWS_WEB_IDENTITY_TOKEN_FILE', 'AWS_ROLE_ARN'],
  ],
  azure: [['AZURE_FEDERATED_TOKEN_FILE'], ['IDENTITY_ENDPOINT', 'IDENTITY_HEADER']],
  gcp: [['K_SERVICE'], ['GCE_METADATA_HOST']],
}
const CLOUDS = ['aws', 'azure', 'gcp'] as const satisfies readonly Cloud[]

const PROBE_MS = 1000
const METADATA = 'http://169.254.169.254'

/** One request, without a proxy and without following anything. Null where there is no answer in time. */
export type Probe = (request: {
  readonly method: 'GET' | 'PUT'
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly signal: AbortSignal
}) => Promise<ProbeAnswer | null>

export interface ProbeAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly text: string
}

const MAX_PROBE_BYTES = 64 * 1024

const textOf = async (body: AsyncIterable<Buffer>): Promise<string> => {
  let text = ''
  for await (const chunk of body) {
    text += chunk.toString('latin1')
    if (text.length > MAX_PROBE_BYTES) throw new Error('more than a metadata service says')
  }
  return text
}

/** undici's own dispatcher knows nothing of proxies. */
export const httpProbe: Probe = async ({ signal, url, ...options }) => {
  try {
    const { statusCode, headers, body } = await request(url, { ...options, signal })
    return { status: statusCode, headers, text: await textOf(body) }
  } catch {
    return null
  }
}

const AzureInstance = z.object({ compute: z.object({ azEnvironment: z.string().min(1), vmId: z.string().min(1) }) })

const parse = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

interface CloudProbe {
  readonly request: Omit<Parameters<Probe>[0], 'signal'>
  /** Whether nobody but this cloud answers like that. */
  readonly isIts: (answer: ProbeAnswer) => boolean
}

const PROBES: Readonly<Record<Cloud, CloudProbe>> = {
  aws: {
    request: {
      method: 'PUT',
      url: `${METADATA}/latest/api/token`,
      headers: { 'x-aws-ec2-metadata-token-ttl-seconds': '60' },
    },
    isIts: ({ headers, text }) =>
      headers['x-aws-ec2-metadata-token-ttl-seconds'] !== undefined && /^[A-Za-z0-9+/_=-]{40,}$/.test(text),
  },
  azure: {
    request: {
      method: 'GET',
      url: `${METADATA}/metadata/instance?api-version=2021-02-01`,
      headers: { metadata: 'true' },
    },
    isIts: ({ text }) => AzureInstance.safeParse(parse(text)).success,
  },
  gcp: {
    request: {
      method: 'GET',
      url: `${METADATA}/computeMetadata/v1/project/project-id`,
      headers: { 'metadata-flavor': 'Google' },
    },
    isIts: ({ headers }) => headers['metadata-flavor'] === 'Google',
  },
}

const answers = async (cloud: Cloud, probe: Probe, signal: AbortSignal): Promise<boolean> => {
  const answer = await probe({ ...PROBES[cloud].request, signal })
  return answer?.status === 200 && PROBES[cloud].isIts(answer)
}

/** In parallel, and over after a second whatever hangs. */
const probeAll = async (probe: Probe, clock: Clock): Promise<readonly Cloud[]> => {
  const over = new AbortController()
  const late = clock.sleep(PROBE_MS, over.signal).catch(() => undefined)
  const one = async (cloud: Cloud): Promise<Cloud | null> => {
    const answered = answers(cloud, probe, over.signal).catch(() => false)
    return (await Promise.race([answered, late.then(() => false)])) ? cloud : null
  }
  const found = await Promise.all(CLOUDS.map(one))
  over.abort('probed')
  return found.filter((cloud) => cloud !== null)
}

const signalOf = (cloud: Cloud, environment: Environment): string | null =>
  SIGNALS[cloud].find((names) => names.every((name) => environment[name]?.trim()))?.join(' and ') ?? null

const inDoubt = (clouds: readonly string[]): CloudFinding => ({
  provider: 'none',
  by: `${clouds.join(' and ')} contradict each other: set APONO_CLOUD_PROVIDER`,
})

export interface CloudOptions {
  readonly environment: Environment
  readonly clock: Clock
  readonly probe?: Probe
}

export const detectCloud = async ({ environment, clock, probe = httpProbe }: CloudOptions): Promise<CloudFinding> => {
  const named = CLOUDS.flatMap((cloud) => {
    const by = signalOf(cloud, environment)
    return by === null ? [] : [{ provider: cloud, by }]
  })
  if (named.length > 1) return inDoubt(named.map(({ by }) => by))
  if (named[0] !== undefined) return named[0]
  const probed = await probeAll(probe, clock)
  if (probed.length > 1) return inDoubt(probed.map((cloud) => `the metadata services of ${cloud}`))
  if (probed[0] !== undefined) return { provider: probed[0], by: `its metadata service at ${METADATA}` }
  if (isInCluster(environment)) return { provider: 'kubernetes', by: 'KUBERNETES_SERVICE_HOST' }
  return { provider: 'none', by: 'no variable of a cloud, and no answer of a metadata service' }
}
