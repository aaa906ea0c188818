import { randomBytes, randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished } from 'vitest'
import { parseControlPlaneConfig } from '../../src/control-plane/config.ts'
import {
  type ControlPlane,
  type ControlPlaneOptions,
  startControlPlane,
} from '../../src/control-plane/control-plane.ts'
import { createLogger } from '../../src/observability/log.ts'
import {
  ClaimResponse,
  GrantsResponse,
  RegisterResponse,
  RenewResponse,
  ReportResponse,
} from '../../src/protocol/calls.ts'
import type { EnsureJob, InspectJob, Job, JobRef } from '../../src/protocol/job.ts'
import type { AbsentResult, InspectResult, PresentResult } from '../../src/protocol/results.ts'
import { ManualClock } from './manual-clock.ts'

export const HOST_KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1lIfMSsxYVEc/8WtHXGkaPhbaAqDNSEtCHTbhZk3n9'
export const OWN_KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPQ8cv2C0AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB'
export const CERTIFICATE = `ssh-ed25519-cert-v01@openssh.com ${'QUJD'.repeat(40)}`

export interface Answer {
  readonly status: number
  readonly body: Record<string, unknown>
  readonly headers: Headers
}

/** Servers come due at the very end of the hour, so that no inspection is in the way of what a test looks at. */
const lateInspections = (bytes: number): Buffer => (bytes === 4 ? Buffer.alloc(4, 0xff) : randomBytes(bytes))

/** A value deep inside of an answer: `dig(body, 'items', 0, 'id')`. */
export const dig = (value: unknown, ...path: readonly (string | number)[]): unknown =>
  path.reduce<unknown>((inner, key) => Object(inner)[key], value)

/** Real requests; what comes back is looked at by the tests themselves. */
export class Caller {
  readonly url: string
  readonly token: string | null

  constructor(url: string, token: string | null) {
    this.url = url
    this.token = token
  }

  async call(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Answer> {
    const response = await fetch(`${this.url}${path}`, {
      method,
      headers: {
        ...(this.token === null ? {} : { authorization: `Bearer ${this.token}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      ...(signal ? { signal } : {}),
    })
    const text = await response.text()
    const parsed: Record<string, unknown> = text === '' ? {} : JSON.parse(text)
    return { status: response.status, body: parsed, headers: response.headers }
  }

  async ok(method: string, path: string, body?: unknown): Promise<Record<string, unknown>> {
    const answer = await this.call(method, path, body)
    expect(answer, `${method} ${path}`).toMatchObject({ status: expect.toSatisfy((s: number) => s < 300) })
    return answer.body
  }
}

/** A connector as protocol.md wants it, driven step by step. Every answer is checked against the schemas. */
export class FakeConnector {
  readonly caller: Caller
  readonly connectorId: string
  instanceId: string = randomUUID()

  constructor(caller: Caller, connectorId: string) {
    this.caller = caller
    this.connectorId = connectorId
  }

  registration() {
    return {
      connectorId: this.connectorId,
      instanceId: this.instanceId,
      version: '0.1.0',
      protocol: { min: 1, max: 1 },
      cloud: { provider: 'none' },
      secretStores: ['file'],
      slots: 16,
    }
  }

  async register(): Promise<RegisterResponse> {
    return RegisterResponse.parse(await this.caller.ok('POST', '/connector/v1/register', this.registration()))
  }

  /** Looks once: `[]` is a 204. */
  async claim(options: { freeSlots?: number; waitMs?: number; inFlight?: readonly JobRef[] } = {}): Promise<Job[]> {
    const { freeSlots = 16, waitMs = 0, inFlight = [] } = options
    const body = { instanceId: this.instanceId, freeSlots, waitMs, inFlight }
    const answer = await this.caller.call('POST', '/connector/v1/claim', body)
    if (answer.status === 204) return []
    expect(answer.status).toBe(200)
    return ClaimResponse.parse(answer.body).jobs
  }

  async claimOne(inFlight: readonly JobRef[] = []): Promise<Job> {
    const [job, second] = await this.claim({ inFlight })
    if (!job || second) throw new Error(`expected one job, got ${second ? 'more' : 'none'}`)
    return job
  }

  async claimEnsure(inFlight: readonly JobRef[] = []): Promise<EnsureJob> {
    const job = await this.claimOne(inFlight)
    if (job.kind !== 'ensure') throw new Error(`expected ensure, got ${job.kind}`)
    return job
  }

  async renew(inFlight: readonly JobRef[]): Promise<string[]> {
    const body = { instanceId: this.instanceId, inFlight }
    const answer = RenewResponse.parse(await this.caller.ok('POST', '/connector/v1/renew', body))
    return answer.results.map(({ status }) => status)
  }

  async report(report: object): Promise<string> {
    const body = { instanceId: this.instanceId, reports: [{ at: '2026-11-22T15:00:00.000Z', ...report }] }
    const { results } = ReportResponse.parse(await this.caller.ok('POST', '/connector/v1/report', body))
    return results[0]?.status ?? 'none'
  }

  succeed(job: Job, result: object): Promise<string> {
    return this.report({ jobId: job.jobId, epoch: job.epoch, outcome: 'succeeded', result })
  }

  fail(job: Job, code: string, extra: object = {}): Promise<string> {
    const error = { code, message: `${code} happened`, hint: `mend ${code}`, retryable: false, ...extra }
    return this.report({ jobId: job.jobId, epoch: job.epoch, outcome: 'failed', error })
  }

  async grants(): Promise<GrantsResponse> {
    return GrantsResponse.parse(await this.caller.ok('GET', '/connector/v1/grants'))
  }

  async deregister(release: readonly JobRef[] = []): Promise<number> {
    const body = { instanceId: this.instanceId, release }
    return (await this.caller.call('POST', '/connector/v1/deregister', body)).status
  }

  /** Does whatever comes, well, until there is nothing more. */
  async work(): Promise<Job[]> {
    const done: Job[] = []
    for (let jobs = await this.claim(); jobs.length > 0; jobs = await this.claim()) {
      for (const job of jobs) expect(await this.succeed(job, resultOf(job))).toBe('accepted')
      done.push(...jobs)
    }
    return done
  }
}

export const hostIdOf = (job: Job): string => `h_${job.server.name.replace(/[^A-Za-z0-9]/g, '')}`

export const inspectResult = (job: InspectJob, changes: Partial<InspectResult> = {}): InspectResult => ({
  hostId: hostIdOf(job),
  os: { id: 'debian', versionId: '12', prettyName: 'Debian 12', kernel: '6.1' },
  ssh: { version: 'OpenSSH_9.2p1', usePam: true, authorizedKeysFile: ['.ssh/authorized_keys'] },
  sudo: { ok: true, flavour: 'sudo' },
  tools: ['useradd'],
  trust: ['root_file', 'home'],
  onHostExpiry: 'logins',
  groups: [...job.integration.userGroups],
  hostKeys: [HOST_KEY],
  clockSkewMs: 0,
  ledger: [],
  problems: [],
  ...changes,
})

export const presentResult = (job: EnsureJob, changes: Partial<PresentResult> = {}): PresentResult => ({
  hostId: hostIdOf(job),
  login: job.grant.login,
  uid: 20_000,
  createdLogin: true,
  groupsAdded: job.grant.groups,
  certificate: job.grant.issue ? `${CERTIFICATE} ${job.grant.id}` : null,
  validAfter: job.grant.notBefore,
  validBefore: job.grant.notAfter,
  hostKeys: [HOST_KEY],
  trust: 'root_file',
  onHostExpiry: 'logins',
  changed: true,
  ...changes,
})

export const absentResult = (job: EnsureJob, changes: Partial<AbsentResult> = {}): AbsentResult => ({
  hostId: hostIdOf(job),
  login: job.grant.login,
  groupsRemoved: job.grant.groups,
  sessionsEnded: 1,
  processesLeft: 0,
  account: 'locked',
  changed: true,
  assurance: 'observed',
  residue: [],
  ...changes,
})

export const resultOf = (job: Job): object => {
  if (job.kind === 'inspect') return inspectResult(job)
  if (job.kind === 'cleanup') throw new Error('no cleanup jobs yet')
  return job.grant.state === 'present' ? presentResult(job) : absentResult(job)
}

export const tempFolder = async (): Promise<string> => {
  const folder = await mkdtemp(join(tmpdir(), 'apono-cp-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  return folder
}

export interface World {
  readonly clock: ManualClock
  readonly controlPlane: ControlPlane
  readonly admin: Caller
  readonly anonymous: Caller
  readonly stateDir: string
  /** Stops it and starts it again over the same files. */
  restart(): Promise<World>
  connector(id?: string): Promise<FakeConnector>
  /** A person with a token of their own. */
  person(email: string, role?: 'admin' | 'user'): Promise<Caller & { userId: string }>
}

export const start = async (
  options: Partial<ControlPlaneOptions> & { env?: Record<string, string>; stateDir?: string; adminToken?: string } = {},
): Promise<World> => {
  const stateDir = options.stateDir ?? (await tempFolder())
  const parsed = parseControlPlaneConfig({ APONO_LISTEN: '127.0.0.1:0', APONO_STATE_DIR: stateDir, ...options.env })
  if (!parsed.ok) throw new Error(parsed.problems.join('\n'))
  const clock = options.clock instanceof ManualClock ? options.clock : new ManualClock()
  const log = createLogger('error')
  const controlPlane = await startControlPlane(parsed.config, { random: lateInspections, ...options, clock, log })
  onTestFinished(() => controlPlane.stop())
  const adminToken = options.adminToken ?? controlPlane.firstAdminToken ?? ''
  await controlPlane.firstAdminTokenShown()
  const admin = new Caller(controlPlane.url, adminToken)
  return {
    clock,
    controlPlane,
    admin,
    stateDir,
    anonymous: new Caller(controlPlane.url, null),
    restart: async () => {
      await controlPlane.stop()
      return start({ ...options, stateDir, adminToken, clock })
    },
    connector: async (id = 'c1') => {
      const { token } = await admin.ok('POST', '/api/v1/connector-tokens', { connector_id: id })
      return new FakeConnector(new Caller(controlPlane.url, String(token)), id)
    },
    person: async (email, role = 'user') => {
      const user = await admin.ok('POST', '/api/v1/users', { email, role })
      const { token } = await admin.ok('POST', `/api/v1/users/${user['id']}/tokens`)
      return Object.assign(new Caller(controlPlane.url, String(token)), { userId: String(user['id']) })
    },
  }
}

export const SERVERS = [
  { name: 'web-1', host: '10.0.0.1' },
  { name: 'web-2', host: '10.0.0.2', port: '2222', user: 'admin', tags: { env: 'prod' } },
]

export const integrationBody = (changes: object = {}, config: object = {}) => ({
  name: 'Production servers',
  type: 'ssh',
  connector_id: 'c1',
  integration_config: { servers: JSON.stringify(SERVERS), user_groups: 'dbadmins,sudo', ...config },
  secret_store_config: { file: { path: '/run/secrets/key.json' } },
  ...changes,
})

export interface Scene extends World {
  readonly integrationId: string
  readonly fake: FakeConnector
  readonly dana: Caller & { userId: string }
  /** Asks and approves; returns the request's id. */
  grant(options?: { server?: string; permission?: string; seconds?: number; publicKey?: string }): Promise<string>
  status(requestId: string): Promise<string>
  /** The newest grant, as admins see it. */
  newestGrant(): Promise<Record<string, unknown>>
}

/** One integration with two inspected servers, a connector, and a person. */
export const stage = async (options: Parameters<typeof start>[0] = {}): Promise<Scene> => {
  const world = await start(options)
  const fake = await world.connector()
  await fake.register()
  const { id } = await world.admin.ok('POST', '/api/admin/v4/integrations', integrationBody())
  await fake.work()
  const dana = await world.person('dana@example.com')
  return {
    ...world,
    fake,
    dana,
    integrationId: String(id),
    grant: async ({ server = 'web-1', permission = 'dbadmins', seconds = 3600, publicKey = OWN_KEY } = {}) => {
      const answer = await dana.ok('POST', '/api/user/v4/access-requests', {
        entitlements: [{ resource_id: server, permission_id: permission }],
        duration_in_sec: seconds,
        justification: 'testing',
        custom_fields: publicKey === '' ? {} : { public_key: publicKey },
      })
      const id = String(dig(answer, 0, 'id'))
      await world.admin.ok('POST', `/api/v1/access-requests/${id}/approve`)
      return id
    },
    status: async (requestId) =>
      String((await world.admin.ok('GET', `/api/user/v4/access-requests/${requestId}`))['status']),
    newestGrant: async () => Object(dig(await world.admin.ok('GET', '/api/v1/grants?limit=1'), 'items', 0)),
  }
}
