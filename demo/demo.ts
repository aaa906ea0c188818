/**
 * The main job, shown: a person asks for access to a real server, an admin approves, the person logs in with OpenSSH
 * and a signed certificate, and is out when the time ends.
 *
 * What lives here: the story (`demo.ts`), the person's side of it (`person.ts`) and what it prints (`screen.ts`). Every line on the screen is something that was observed; what was
 * expected and not observed ends the demo with exit code 1. It uses the public API and the shipped command only.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { removeAtExit, sweepDeadRuns } from '../test/hosts/cleanup.ts'
import { startHost, type TestHost } from '../test/hosts/hosts.ts'
import { type KeyPair, keygen, sshSession } from '../test/hosts/openssh.ts'
import { scratchDirectory, sweepScratch } from '../test/hosts/scratch.ts'
import { type Api, createApi, waitFor } from '../test/standalone/api.ts'
import { type StandaloneProcess, startStandaloneProcess } from '../test/standalone/standalone-process.ts'
import { runShell, sshCommandLine } from './person.ts'
import { expect, heading, line, seen } from './screen.ts'

const GRANT_SECONDS = 30
const PERSON = 'dana@example.com'

interface Stage {
  readonly hosts: readonly TestHost[]
  readonly standalone: StandaloneProcess
  readonly admin: Api
  readonly adminToken: string
  readonly person: Api
  readonly personToken: string
}

const setStage = async (): Promise<Stage> => {
  heading('Two servers and a control plane with its connector')
  const connectorKey = await keygen()
  const hosts = await Promise.all(['web-1', 'web-2'].map((hostname) => startHost({ hostname, connectorKey })))
  for (const host of hosts) seen(`sshd answers on ${host.address}:${host.port}`)
  const standalone = await startStandaloneProcess(path.join(scratchDirectory(), 'state'))
  seen(`apono-connector standalone listens on ${standalone.url}`)
  const adminToken = standalone.adminToken ?? ''
  const admin = createApi(standalone.url, adminToken)
  const user = await admin.post<{ id: string }>('/api/v1/users', { email: PERSON })
  const { token } = await admin.post<{ token: string }>(`/api/v1/users/${user.id}/tokens`)
  writeSecret(standalone.secretDirectory, connectorKey)
  return { hosts, standalone, admin, adminToken, person: createApi(standalone.url, token), personToken: token }
}

/** As an admin does by hand: the connector's private key in base64, readable by its owner only. */
const writeSecret = (directory: string, key: KeyPair): void => {
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const content = JSON.stringify({ base64_private_key: Buffer.from(key.privateKey).toString('base64') })
  writeFileSync(path.join(directory, 'ssh.json'), content, { mode: 0o600 })
  seen(`the connector's private key is in ${path.join(directory, 'ssh.json')}`)
}

interface Integration {
  readonly id: string
  readonly status: string
  readonly details: string
}

interface Resource {
  readonly id: string
  readonly name: string
  readonly os: string
  readonly status: { status: string }
}

const integrate = async ({ admin, hosts, standalone }: Stage): Promise<readonly Resource[]> => {
  heading('An admin adds the integration')
  const servers = hosts.map((host, i) => ({ name: `web-${i + 1}`, host: host.address, port: host.port }))
  line(`servers: ${JSON.stringify(servers)}`)
  const made = await admin.post<Integration>('/api/admin/v4/integrations', {
    name: 'Demo servers',
    type: 'ssh',
    connector_id: 'standalone',
    integration_config: { servers: JSON.stringify(servers), user_groups: 'dbadmins' },
    secret_store_config: { file: { path: path.join(standalone.secretDirectory, 'ssh.json') } },
  })
  const active = await waitFor(
    'the integration to become Active',
    () => admin.get<Integration>(`/api/admin/v4/integrations/${made.id}`),
    ({ status }) => status !== 'Initializing' && status !== 'Refreshing',
  )
  seen(`status ${active.status}: ${active.details}`)
  expect(active.status === 'Active', 'the integration is not Active')
  const resources = await admin.get<{ data: readonly Resource[] }>(`/api/v3/integrations/${made.id}/resources`)
  for (const { name, os, status } of resources.data) seen(`discovered ${name} (${os}): ${status.status}`)
  expect(resources.data.length === hosts.length, 'not every server was discovered')
  return resources.data
}

interface AccessRequest {
  readonly id: string
  readonly status: string
}

const requestAccess = async (stage: Stage, resource: Resource, key: KeyPair): Promise<AccessRequest> => {
  heading(`${PERSON} asks for dbadmins on ${resource.name} for ${GRANT_SECONDS} seconds`)
  const [made] = await stage.person.post<readonly AccessRequest[]>('/api/user/v4/access-requests', {
    entitlements: [{ resource_id: resource.id, permission_id: 'dbadmins' }],
    duration_in_sec: GRANT_SECONDS,
    justification: 'to look at a slow query',
    custom_fields: { public_key: key.publicKey },
  })
  if (made === undefined) throw new Error('the request was not made')
  seen(`request ${made.id}: ${made.status}`)
  const asked = performance.now()
  await stage.admin.post(`/api/v1/access-requests/${made.id}/approve`)
  const active = await waitFor(
    'the grant to become Active',
    () => stage.person.get<AccessRequest>(`/api/user/v4/access-requests/${made.id}`),
    ({ status }) => status === 'Active' || status === 'Failed',
  )
  seen(`approved; ${active.status} after ${Math.round(performance.now() - asked)} ms`)
  expect(active.status === 'Active', 'the grant did not become Active')
  return active
}

interface Details {
  readonly parameters: { readonly [name: string]: string }
}

const logIn = async (stage: Stage, request: AccessRequest, host: TestHost, key: KeyPair): Promise<string> => {
  heading('The person logs in')
  const sessions = await stage.person.get<{ items: readonly { id: string; request_ids: readonly string[] }[] }>(
    '/api/user/v1/access-sessions',
  )
  const session = sessions.items.find(({ request_ids }) => request_ids.includes(request.id))
  if (session === undefined) throw new Error('there is no session for the request')
  const details = await stage.person.get<Details>(`/api/user/v1/access-sessions/${session.id}/access-details`)
  const login = details.parameters['login'] ?? ''
  const command = sshCommandLine(details.parameters, key)
  line(`$ ${command} 'id; hostname'`)
  const { code, stdout } = await runShell(`${command} 'id; hostname'`)
  for (const text of stdout.trim().split('\n')) seen(text)
  expect(code === 0 && stdout.includes('(dbadmins)') && stdout.includes('web-1'), 'the login did not give the group')

  heading('The person stays logged in, with a job in the background, until the time ends')
  const certificatePath = `${key.privateKeyPath}-cert.pub`
  const stay = sshSession({ host, user: login, privateKeyPath: key.privateKeyPath, certificatePath })
  await stay.ready
  stay.write('setsid nohup sleep 3600 >/dev/null 2>&1 &\n')
  const uid = (await host.passwd(login))?.uid ?? -1
  const running = await waitFor(
    'the background job',
    () => host.processesOf(uid),
    (all) => all.some((process) => process.command.startsWith('sleep 3600')),
  )
  seen(`${running.length} processes of ${login} (uid ${uid}) on web-1, "sleep 3600" among them`)
  const ended = await stay.closed
  seen(`the session was ended by the server (ssh exit code ${ended})`)
  return command
}

interface GrantState {
  readonly id: string
  readonly request_id: string
  readonly login: string
  readonly status: string
  readonly result: Readonly<Record<string, unknown>> | null
}

const proveTheEnd = async (stage: Stage, request: AccessRequest, host: TestHost, command: string): Promise<void> => {
  heading('The time is over')
  const grant = await waitFor(
    'the end of the grant',
    async () => {
      const { items } = await stage.admin.get<{ items: readonly GrantState[] }>('/api/v1/grants')
      const found = items.find(({ request_id }) => request_id === request.id)
      if (found === undefined) throw new Error('the grant is not listed')
      return found
    },
    ({ status }) => status === 'Expired',
  )
  seen(`the connector reports: ${JSON.stringify(grant.result)}`)
  const { code, stderr } = await runShell(`${command} 'id; hostname'`)
  line("$ the same ssh command again, 'id; hostname'")
  seen(`${stderr.trim().split('\n').at(-1) ?? ''} (exit code ${code})`)
  expect(code === 255, 'the login was not refused')
  const account = await host.passwd(grant.login)
  const shadow = await host.shadow(grant.login)
  seen(
    `/etc/shadow: ${grant.login} has password field ${shadow?.hash} and expiry day ${shadow?.expires} (days since 1970-01-01)`,
  )
  expect(shadow?.locked === true && shadow.expires === '1', 'the account is not locked')
  const left = await host.processesOf(account?.uid ?? -1)
  seen(`processes of ${grant.login} on the server: ${left.length}`)
  expect(left.length === 0, 'processes are left')
  const groups = await host.groupsOf(grant.login)
  seen(`groups of ${grant.login}: ${groups.join(' ')}`)
  expect(!groups.includes('dbadmins'), 'the group was not taken')
}

const stay = async (stage: Stage): Promise<never> => {
  heading('Staying, as asked; Ctrl-C ends and removes everything')
  line(`URL            ${stage.standalone.url}`)
  line(`admin token    ${stage.adminToken}`)
  line(`user token     ${stage.personToken} (${PERSON})`)
  for (const [i, host] of stage.hosts.entries()) line(`server web-${i + 1}   ${host.address}:${host.port}`)
  line(`try            curl -H "Authorization: Bearer ${stage.adminToken}" ${stage.standalone.url}/api/v1/grants`)
  return new Promise(() => undefined)
}

const main = async (): Promise<void> => {
  removeAtExit()
  sweepScratch()
  await sweepDeadRuns()
  const stage = await setStage()
  const resources = await integrate(stage)
  const [host] = stage.hosts
  const [resource] = [...resources].sort((a, b) => a.name.localeCompare(b.name))
  if (host === undefined || resource === undefined) throw new Error('there is no server')
  const key = await keygen()
  const request = await requestAccess(stage, resource, key)
  const command = await logIn(stage, request, host, key)
  await proveTheEnd(stage, request, host, command)
  if (process.argv.includes('--stay')) await stay(stage)
  await stage.standalone.stop()
  heading('Done: access began, was used, ended, and nothing of it is left')
}

main().then(
  () => process.exit(0),
  (error: unknown) => {
    process.stderr.write(`\ndemo failed: ${error instanceof Error ? error.message : String(error)}\n`)
    process.exit(1)
  },
)
