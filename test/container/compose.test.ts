import { writeFileSync } from 'node:fs'
import { Agent, getGlobalDispatcher, setGlobalDispatcher } from 'undici'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { keygen, type SshOptions, sshLogin } from '../hosts/openssh.ts'
import { type Api, createApi, waitFor } from '../standalone/api.ts'
import { type Compose, prepareCompose, sweepComposeLeftovers } from './compose.ts'
import { exec, healthOf, inspect, logOf, STOP_MS, terminate } from './engine.ts'
import { BUILD_MS, connectorImage } from './image.ts'

// The image at work, as docker/compose.yaml puts it together: from nothing to the main job, and back to nothing.

const OURS = ['control-plane', 'connector'] as const

interface Named {
  readonly id: string
  readonly status: string
}

let compose: Compose
let admin: Api
const dispatcher = getGlobalDispatcher()

const read = async (service: (typeof OURS)[number], path: string): Promise<string> =>
  (await exec(await compose.idOf(service), ['cat', path])).stdout.trim()

beforeAll(async () => {
  await sweepComposeLeftovers()
  compose = await prepareCompose(await connectorImage())
  await compose.must('up', '--build', '--detach')
  const ca = await read('control-plane', '/etc/apono/ca.crt')
  setGlobalDispatcher(new Agent({ connect: { ca } }))
  admin = createApi(await urlOf(), await read('control-plane', '/etc/apono/admin-token'))
}, BUILD_MS)

afterAll(async () => {
  setGlobalDispatcher(dispatcher)
  await compose?.run('down', '--volumes', '--timeout', '1')
})

const urlOf = async (): Promise<string> => `https://localhost:${await compose.portOf('control-plane', 8443)}`

test('the file is accepted without a word', async () => {
  expect(await compose.run('config', '--quiet')).toEqual({ code: 0, stdout: '', stderr: '' })
})

test('everything becomes healthy', async () => {
  for (const service of [...OURS, 'demo-server'] as const) {
    expect([service, await healthOf(await compose.idOf(service))]).toEqual([service, 'healthy'])
  }
})

describe.for(OURS)('the %s', (service) => {
  test('may do nothing but its work, and has time to end it', async () => {
    const { Config, HostConfig } = await inspect(await compose.idOf(service))
    expect(Config).toMatchObject({ User: '1000:1000', StopTimeout: 35 })
    expect(HostConfig).toMatchObject({ ReadonlyRootfs: true, CapDrop: ['ALL'], Init: true })
    expect(HostConfig.SecurityOpt).toEqual(['no-new-privileges:true'])
  })
})

test('nothing is published beyond this machine', async () => {
  const services = [...OURS, 'demo-server'] as const
  const all = await Promise.all(services.map(async (service) => inspect(await compose.idOf(service))))
  const published = all.flatMap(({ NetworkSettings }) => Object.values(NetworkSettings.Ports).flatMap((at) => at ?? []))
  expect(published.map(({ HostIp }) => HostIp)).toEqual(['127.0.0.1', '127.0.0.1'])
})

test('no secret is where others can look: environments, command lines, logs', async () => {
  const { base64_private_key: key } = JSON.parse(await read('connector', '/etc/apono/secrets/ssh.json'))
  const secrets = [
    key,
    await read('connector', '/etc/apono/token'),
    await read('control-plane', '/etc/apono/admin-token'),
    (await read('control-plane', '/etc/apono/tls.key')).split('\n')[1],
  ]
  for (const service of ['init', ...OURS, 'demo-server'] as const) {
    const id = await compose.idOf(service)
    const seen = JSON.stringify(await inspect(id)) + (await logOf(id))
    for (const secret of secrets) {
      expect(secret).toMatch(/^\S{32,}$/)
      expect(seen).not.toContain(secret)
    }
  }
  const modes = await exec(await compose.idOf('connector'), [
    'stat',
    '-c',
    '%a %u',
    '/etc/apono/token',
    '/etc/apono/secrets/ssh.json',
  ])
  expect(modes.stdout).toBe('600 1000\n600 1000\n')
})

describe('the main job', () => {
  let person: Api
  let request: Named
  let login: SshOptions

  test('an integration becomes Active', async () => {
    const made = await admin.post<Named>('/api/admin/v4/integrations', {
      name: 'Demo',
      type: 'ssh',
      connector_id: 'demo',
      integration_config: {
        servers: JSON.stringify([{ name: 'demo-server', host: 'demo-server' }]),
        user_groups: 'dbadmins',
      },
      secret_store_config: { file: { path: '/etc/apono/secrets/ssh.json' } },
    })
    const known = await waitFor(
      'the integration',
      () => admin.get<Named>(`/api/admin/v4/integrations/${made.id}`),
      ({ status }) => !['Initializing', 'Refreshing'].includes(status),
    )
    expect(known).toMatchObject({ status: 'Active', details: '1 resource loaded' })
  })

  test('a person asks, an admin approves, the person logs in', async () => {
    const user = await admin.post<Named>('/api/v1/users', { email: 'dana@example.com' })
    const { token } = await admin.post<{ token: string }>(`/api/v1/users/${user.id}/tokens`)
    person = createApi(await urlOf(), token)
    const integrations = await admin.get<{ items: Named[] }>('/api/admin/v4/integrations')
    const resources = await admin.get<{ data: Named[] }>(`/api/v3/integrations/${integrations.items[0]?.id}/resources`)
    const key = await keygen()
    const [asked] = await person.post<Named[]>('/api/user/v4/access-requests', {
      entitlements: [{ resource_id: resources.data[0]?.id, permission_id: 'dbadmins' }],
      duration_in_sec: 600,
      justification: 'to see that the image does its work',
      custom_fields: { public_key: key.publicKey },
    })
    if (asked === undefined) throw new Error('the request was not made')
    await admin.post(`/api/v1/access-requests/${asked.id}/approve`)
    request = await settled(person, asked)
    expect(request.status).toBe('Active')

    login = await loginOf(person, request, key.privateKeyPath)
    const { code, stdout, stderr } = await sshLogin(login)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/\(dbadmins\).*\ndemo-server\n$/s)
  })

  test('access is revoked, and the same login refused', async () => {
    await person.post(`/api/user/v4/access-requests/${request.id}/revoke`)
    expect(await settled(person, request)).toMatchObject({ status: 'Revoked' })
    const { code, stderr } = await sshLogin(login)
    expect(stderr).toContain('Permission denied')
    expect(code).toBe(255)
  })
})

const MOVING = ['Pending', 'Granting', 'Revoking', 'Initializing']

const settled = (api: Api, { id, status: before }: Named): Promise<Named> =>
  waitFor(
    'the request to settle',
    () => api.get<Named>(`/api/user/v4/access-requests/${id}`),
    ({ status }) => status !== before && !MOVING.includes(status),
  )

interface Sessions {
  readonly items: readonly { readonly id: string; readonly request_ids: readonly string[] }[]
}

/** What the person is told, used from outside of the network: there, the server is a port of this machine. */
const loginOf = async (api: Api, request: Named, privateKeyPath: string): Promise<SshOptions> => {
  const { items } = await api.get<Sessions>('/api/user/v1/access-sessions')
  const session = items.find(({ request_ids }) => request_ids.includes(request.id))
  const path = `/api/user/v1/access-sessions/${session?.id}/access-details`
  const { parameters } = await api.get<{ parameters: Record<string, string> }>(path)
  expect(parameters).toMatchObject({ host: 'demo-server', port: '22' })
  const certificatePath = `${privateKeyPath}-cert.pub`
  writeFileSync(certificatePath, `${parameters['certificate']}\n`)
  const hostKeys = parameters['host_keys']?.split('\n') ?? []
  const host = { address: '127.0.0.1', port: await compose.portOf('demo-server', 22), hostKeys }
  return { host, user: parameters['login'] ?? '', privateKeyPath, certificatePath, command: 'id; hostname' }
}

describe('the end', () => {
  test.for(OURS.toReversed())('SIGTERM ends the %s in order', { timeout: STOP_MS }, async (service) => {
    const { exitCode, seconds } = await terminate(await compose.idOf(service))
    expect(exitCode).toBe(0)
    expect(seconds).toBeLessThan(25)
  })

  test('down -v leaves nothing', async () => {
    expect(await compose.remains()).not.toEqual([])
    await compose.must('down', '--volumes')
    expect(await compose.remains()).toEqual([])
  })
})
