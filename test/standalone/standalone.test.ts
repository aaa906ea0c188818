/**
 * The whole product as one command, from outside: real servers, the public API, the OpenSSH client. What the rooms
 * promise each other is tested beside them; here it is what a person, an admin and a server see.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { runCommand } from '../hosts/command.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { type KeyPair, keygen, sshLogin } from '../hosts/openssh.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { type Api, createApi, waitFor } from './api.ts'
import { type StandaloneProcess, startStandaloneProcess } from './standalone-process.ts'

interface Resource {
  id: string
  name: string
  status: { status: string; message: string | null }
}
interface Integration {
  id: string
  status: string
  details: string
}
interface Grant {
  id: string
  request_id: string
  login: string
  status: string
  last_failure: { code: string; message: string; hint: string } | null
  result: Record<string, unknown> | null
}

const FAST = { APONO_SSH_CONNECT_TIMEOUT_MS: '2000', APONO_SSH_LOGIN_TIMEOUT_MS: '3000' }

const state = path.join(scratchDirectory(), 'state')
let connectorKey: KeyPair
let standalone: StandaloneProcess
let admin: Api
let person: Api
let adminToken = ''
let personToken = ''
const hosts: TestHost[] = []

const host = async (options: Parameters<typeof startHost>[0] = {}): Promise<TestHost> => {
  const started = await startHost({ connectorKey, ...options })
  hosts.push(started)
  return started
}

const start = async (): Promise<void> => {
  standalone = await startStandaloneProcess(state, { env: FAST })
  adminToken = standalone.adminToken ?? adminToken
  admin = createApi(standalone.url, adminToken)
  if (personToken !== '') person = createApi(standalone.url, personToken)
}

beforeAll(async () => {
  connectorKey = await keygen()
  await start()
  const content = JSON.stringify({ base64_private_key: Buffer.from(connectorKey.privateKey).toString('base64') })
  mkdirSync(standalone.secretDirectory, { recursive: true })
  writeFileSync(path.join(standalone.secretDirectory, 'ssh.json'), content, { mode: 0o600 })
  const user = await admin.post<{ id: string }>('/api/v1/users', { email: 'dana@example.com' })
  personToken = (await admin.post<{ token: string }>(`/api/v1/users/${user.id}/tokens`)).token
  person = createApi(standalone.url, personToken)
})
afterAll(async () => {
  await standalone?.stop()
  await Promise.all(hosts.map((each) => each.stop()))
})

const settled = (id: string): Promise<Integration> =>
  waitFor(
    'the integration to settle',
    () => admin.get<Integration>(`/api/admin/v4/integrations/${id}`),
    ({ status }) => status !== 'Initializing' && status !== 'Refreshing',
  )

let integrations = 0
const integrate = async (servers: readonly object[], secret = 'ssh.json', config: object = {}) => {
  const made = await admin.post<Integration>('/api/admin/v4/integrations', {
    name: `servers ${++integrations}`,
    type: 'ssh',
    connector_id: 'standalone',
    integration_config: { servers: JSON.stringify(servers), user_groups: 'dbadmins,nosuch', ...config },
    secret_store_config: { file: { path: path.join(standalone.secretDirectory, secret) } },
  })
  const integration = await settled(made.id)
  const { data } = await admin.get<{ data: Resource[] }>(`/api/v3/integrations/${made.id}/resources`)
  const resource = (name: string): Resource => {
    const found = data.find((each) => each.name === name)
    if (found === undefined) throw new Error(`no resource ${name}`)
    return found
  }
  return { integration, resource }
}

const server = (name: string, at: TestHost, more: object = {}) => ({ name, host: at.address, port: at.port, ...more })

const grantOf = async (requestId: string): Promise<Grant> => {
  const { items } = await admin.get<{ items: Grant[] }>('/api/v1/grants')
  const found = items.find(({ request_id }) => request_id === requestId)
  if (found === undefined) throw new Error('no grant')
  return found
}

const ask = async (resource: Resource, permission: string, seconds: number, key: KeyPair): Promise<string> => {
  const [request] = await person.post<{ id: string }[]>('/api/user/v4/access-requests', {
    entitlements: [{ resource_id: resource.id, permission_id: permission }],
    duration_in_sec: seconds,
    custom_fields: { public_key: key.publicKey },
  })
  const id = request?.id ?? ''
  await admin.post(`/api/v1/access-requests/${id}/approve`)
  return id
}

const reached = (requestId: string, ...statuses: string[]): Promise<Grant> =>
  waitFor(
    statuses.join(' or '),
    () => grantOf(requestId),
    ({ status }) => statuses.includes(status),
  )

const certificateOf = async (requestId: string, key: KeyPair): Promise<string> => {
  const { items } = await person.get<{ items: { id: string; request_ids: string[] }[] }>('/api/user/v1/access-sessions')
  const session = items.find(({ request_ids }) => request_ids.includes(requestId))
  const details = await person.get<{ parameters: Record<string, string> }>(
    `/api/user/v1/access-sessions/${session?.id}/access-details`,
  )
  const file = `${key.privateKeyPath}-${requestId}-cert.pub`
  writeFileSync(file, `${details.parameters['certificate']}\n`)
  return file
}

const login = (at: TestHost, key: KeyPair, certificatePath: string) =>
  sshLogin({ host: at, user: 'dana', privateKeyPath: key.privateKeyPath, certificatePath, command: 'id -Gn' })

describe('what an admin sees of servers that are not in order', () => {
  it('sudo that asks for a password: Error, with the line to add', async () => {
    const broken = await host({ setup: 'rm /etc/sudoers.d/*; printf "apono ALL=(ALL) ALL\\n" >/etc/sudoers.d/apono' })
    const { integration, resource } = await integrate([server('web-1', broken)])
    expect(integration.status).toBe('Error')
    expect(integration.details).toMatch(/^Missing permissions: /)
    expect(integration.details).toContain('apono ALL=(ALL) NOPASSWD:ALL')
    expect(resource('web-1').status.status).toBe('Error')
  })

  it('no sudo: Error, with the line to add', async () => {
    const broken = await host({ setup: 'rm "$(command -v sudo)"; ! command -v sudo' })
    const { integration } = await integrate([server('web-1', broken)])
    expect(integration.status).toBe('Error')
    expect(integration.details).toContain('neither sudo nor doas is installed')
    expect(integration.details).toContain('apono ALL=(ALL) NOPASSWD:ALL')
  })

  it('a .ssh folder of somebody else: Error, with the three repair commands', async () => {
    const broken = await host({ setup: 'chown -R www-data /home/apono/.ssh' })
    const { integration } = await integrate([server('web-1', broken)])
    expect(integration.status).toBe('Error')
    expect(integration.details).toMatch(/^Missing permissions: /)
    expect(integration.details).toContain('SHA256:')
    for (const command of [
      'chown -R apono:apono /home/apono/.ssh',
      'chmod 700 "/home/apono/.ssh"',
      'chmod 600 "/home/apono/.ssh/authorized_keys"',
    ]) {
      expect(integration.details).toContain(command)
    }
    // The commands are right: after them the integration is Active.
    await broken.exec(
      'chown -R apono:apono /home/apono/.ssh; chmod 700 /home/apono/.ssh; chmod 600 /home/apono/.ssh/authorized_keys',
    )
    await admin.post(`/api/v2/integrations/${integration.id}/refresh`)
    expect((await settled(integration.id)).status).toBe('Active')
  })

  it('one server that is away: Warning, and the other is not held up', async () => {
    const good = await host()
    const { integration, resource } = await integrate([
      { name: 'away', host: '127.0.0.1', port: 9 },
      server('web-1', good),
    ])
    expect(integration.status).toBe('Warning')
    expect(resource('web-1').status.status).toBe('Active')
    expect(resource('away').status).toMatchObject({ status: 'Error' })
    expect(resource('away').status.message).toContain('127.0.0.1:9')
  })

  it('a secret that everybody may read: Error, and the command that mends it', async () => {
    const good = await host()
    const content = JSON.stringify({ base64_private_key: 'bm90IGEga2V5IGF0IGFsbA==' })
    const file = path.join(standalone.secretDirectory, 'open.json')
    writeFileSync(file, content)
    await runCommand('chmod', ['644', file])
    const { integration } = await integrate([server('web-1', good)], 'open.json')
    expect(integration.status).toBe('Error')
    expect(integration.details).toContain('chmod 600')
    expect(integration.details).not.toContain('bm90IGEga2V5')
  })
})

describe('a grant', () => {
  it('fails by name where the group does not exist, and nothing is left on the server', async () => {
    const at = await host()
    const { resource } = await integrate([server('web-1', at)])
    const grant = await reached(await ask(resource('web-1'), 'nosuch', 60, await keygen()), 'Failed')
    expect(grant.last_failure).toMatchObject({ code: 'group_missing' })
    expect(grant.last_failure?.hint).toContain('groupadd nosuch')
    expect(await at.passwd('dana')).toBeUndefined()
  })

  it('is extended while the certificate in hand works, and revoked at once', async () => {
    const at = await host()
    const { resource } = await integrate([server('web-1', at)])
    const key = await keygen()
    const id = await ask(resource('web-1'), 'dbadmins', 60, key)
    await reached(id, 'Active')
    const first = await certificateOf(id, key)
    expect((await login(at, key, first)).stdout).toContain('dbadmins')

    await admin.post(`/api/v1/access-requests/${id}/extend`, { duration_in_sec: 600 })
    await waitFor(
      'the extended certificate',
      () => at.exec('cat /etc/ssh/apono-connector/dana'),
      ({ stdout }) => stdout.trim().split('\n').length === 2,
    )
    expect((await login(at, key, first)).code).toBe(0)

    await person.post(`/api/user/v4/access-requests/${id}/revoke`)
    const ended = await reached(id, 'Revoked')
    expect(ended.result).toMatchObject({ processesLeft: 0, account: 'locked', groupsRemoved: ['dbadmins'] })
    expect((await login(at, key, first)).code).toBe(255)
  })

  it('works by the `cli` of the access details, with a key pair of the control plane’s making', async () => {
    const at = await host()
    const { resource } = await integrate([server('web-1', at)])
    const [request] = await person.post<{ id: string }[]>('/api/user/v4/access-requests', {
      entitlements: [{ resource_id: resource('web-1').id, permission_id: 'Default' }],
      duration_in_sec: 60,
      custom_fields: {},
    })
    const id = request?.id ?? ''
    await admin.post(`/api/v1/access-requests/${id}/approve`)
    await reached(id, 'Active')
    const { items } = await person.get<{ items: { id: string; request_ids: string[] }[] }>(
      '/api/user/v1/access-sessions',
    )
    const session = items.find(({ request_ids }) => request_ids.includes(id))
    const details = await person.get<{ cli: string }>(`/api/user/v1/access-sessions/${session?.id}/access-details`)
    const { code, stdout } = await runCommand('sh', ['-c', details.cli, 'sh', 'id -un'])
    expect(stdout.trim()).toBe('dana')
    expect(code).toBe(0)
  })

  it('ends on time although the process crashed and came back', async () => {
    const at = await host()
    const { resource, integration } = await integrate([server('web-1', at)])
    const key = await keygen()
    const id = await ask(resource('web-1'), 'dbadmins', 12, key)
    await reached(id, 'Active')
    const certificate = await certificateOf(id, key)
    await standalone.crash()
    expect((await login(at, key, certificate)).stdout).toContain('dbadmins')

    await start()
    expect(standalone.adminToken).toBeNull()
    expect(await admin.get<Integration>(`/api/admin/v4/integrations/${integration.id}`)).toMatchObject({
      id: integration.id,
    })
    const ended = await reached(id, 'Expired')
    expect(ended.result).toMatchObject({ processesLeft: 0, account: 'locked' })
    expect((await login(at, key, certificate)).code).toBe(255)
    expect(await at.shadow('dana')).toMatchObject({ locked: true, expires: '1' })
  })
})

describe('the command', () => {
  const run = (env: Record<string, string>, ...args: string[]) =>
    runCommand(process.execPath, [new URL('../../src/cli.ts', import.meta.url).pathname, ...args], {
      env: { PATH: process.env['PATH'] ?? '', ...env },
      timeoutMs: 15_000,
    })

  it('names everything that is wrong with the environment at once, and exits 78', async () => {
    const connector = await run({ APONO_URL: 'http://example.com', APONO_SLOTS: 'many' }, 'connector')
    expect(connector.code).toBe(78)
    for (const name of ['APONO_URL', 'APONO_TOKEN', 'APONO_CONNECTOR_ID', 'APONO_SLOTS']) {
      expect(connector.stderr).toContain(`  ${name}`)
    }
    const controlPlane = await run({ APONO_LISTEN: '0.0.0.0:1', APONO_TLS_CERT_FILE: '/x' }, 'control-plane')
    expect(controlPlane.code).toBe(78)
    expect(controlPlane.stderr).toContain('APONO_TLS_KEY_FILE')
    const both = await run({ APONO_URL: 'https://x', APONO_LISTEN: 'x' }, 'standalone')
    expect(both.code).toBe(78)
    for (const name of ['APONO_URL', 'APONO_LISTEN']) expect(both.stderr).toContain(`  ${name}`)
  })

  it('tells its usage and its version', async () => {
    expect(await run({}, 'nonsense')).toMatchObject({ code: 64, stdout: '' })
    expect((await run({}, '--version')).stdout).toMatch(/^\d+\.\d+\.\d+\n$/)
  })

  it('ends with 0 on SIGTERM', async () => {
    const other = await startStandaloneProcess(path.join(scratchDirectory(), 'state'))
    expect(await other.stop()).toBe(0)
  })
})
