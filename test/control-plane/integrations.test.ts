import { expect, test } from 'vitest'
import { inspectResult, integrationBody, OWN_KEY, SERVERS, stage, start } from './harness.ts'

const PATH = '/api/admin/v4/integrations'

const config = (servers: unknown) =>
  integrationBody({}, { servers: typeof servers === 'string' ? servers : JSON.stringify(servers) })

const ok = { name: 'a', host: 'a.example' }

const BAD: readonly [string, unknown, readonly string[]][] = [
  ['servers missing', integrationBody({ integration_config: {} }), ['servers: required']],
  ['servers not JSON', config('[{'), ['servers: is not valid JSON']],
  ['servers not a list', config('{"name":"a"}'), ['servers: must be a list of servers']],
  ['no server', config([]), ['servers: at least one server']],
  ['host missing in the third', config([ok, { ...ok, name: 'b' }, { name: 'c' }]), ['servers[2].host: required']],
  ['name missing', config([{ host: 'a' }]), ['servers[0].name: required']],
  ['name empty', config([{ ...ok, name: ' ' }]), ['servers[0].name: required']],
  [
    'name with control characters',
    config([{ ...ok, name: 'a\u0007b' }]),
    ['servers[0].name: must not contain control'],
  ],
  ['not an object', config(['web-1']), ['servers[0]: ']],
  ['port 0', config([{ ...ok, port: 0 }]), ['servers[0].port: must be a number from 1 to 65535']],
  ['port too high', config([{ ...ok, port: '70000' }]), ['servers[0].port: must be a number from 1 to 65535']],
  ['port not a number', config([{ ...ok, port: 'ssh' }]), ['servers[0].port: must be a number from 1 to 65535']],
  ['port with a fraction', config([{ ...ok, port: 22.5 }]), ['servers[0].port: must be a number']],
  ['host an option', config([{ ...ok, host: '-oProxyCommand=x' }]), ['servers[0].host: must be a host name']],
  ['host with a space', config([{ ...ok, host: 'a b' }]), ['servers[0].host: must be a host name']],
  ['host with shell text', config([{ ...ok, host: 'a;reboot' }]), ['servers[0].host: must be a host name']],
  ['user with shell text', config([{ ...ok, user: 'a;b' }]), ['servers[0].user: must match']],
  ['tags a string', config([{ ...ok, tags: 'prod' }]), ['servers[0].tags: must be an object']],
  ['same name twice', config([ok, ok]), ['servers[1].name: is the same as servers[0].name']],
  [
    'several at once',
    config([{ port: 0 }]),
    ['servers[0].name: required', 'servers[0].host: required', 'servers[0].port: '],
  ],
  ['wrong type', integrationBody({ type: 'postgresql' }), ['type: must be "ssh"']],
  ['no name', integrationBody({ name: '' }), ['name: required']],
  ['unknown connector', integrationBody({ connector_id: 'nobody' }), ['connector_id: no connector with this id']],
  ['no connector', integrationBody({ connector_id: undefined }), ['connector_id: required']],
  ['no secret store', integrationBody({ secret_store_config: {} }), ['secret_store_config: exactly one of']],
  [
    'two secret stores',
    integrationBody({ secret_store_config: { file: { path: '/a' }, gcp: { project: 'p', secret_id: 's' } } }),
    ['secret_store_config: exactly one of'],
  ],
  [
    'half a secret store',
    integrationBody({ secret_store_config: { aws: { region: 'eu-west-1' } } }),
    ['secret_store_config.aws.secret_id: required'],
  ],
  [
    "the vendor's own store",
    integrationBody({ secret_store_config: { apono: { parameters: {} } } }),
    ['secret_store_config: the store "apono" is not supported'],
  ],
  ['a bad group', integrationBody({}, { user_groups: 'ok, not ok' }), ['user_groups[1]: must match']],
  [
    'a policy that is none',
    integrationBody({}, { existing_user: 'perhaps', shell: 'bash' }),
    ['existing_user: ', 'shell: must be an absolute path'],
  ],
  ['uid range', integrationBody({}, { uid_range: '5-10' }), ['uid_range']],
  ['a list instead of an object', [], ['body: ']],
]

test.each(BAD)('%s is refused with every problem named', async (_name, body, expected) => {
  const world = await start()
  await world.connector()
  const answer = await world.admin.call('POST', PATH, body)
  expect(answer.status).toBe(400)
  const errors = answer.body['errors'] as { path: string; message: string }[]
  const lines = errors.map(({ path, message }) => `${path}: ${message}`)
  for (const line of expected)
    expect(
      lines.some((actual) => actual.startsWith(line)),
      `${line} in ${lines}`,
    ).toBe(true)
  expect(answer.body).toMatchObject({ error_code: 'InvalidRequest', error_details: expect.any(String) })
  expect((await world.admin.ok('GET', PATH))['items']).toEqual([])
})

test('envelope and content are checked together', async () => {
  const world = await start()
  const answer = await world.admin.call('POST', PATH, {
    type: 'ssh',
    integration_config: { servers: '[{"name":"x"}]' },
  })
  const errors = answer.body['errors'] as { path: string }[]
  expect(errors.map(({ path }) => path)).toEqual(
    expect.arrayContaining(['name', 'connector_id', 'secret_store_config', 'servers[0].host']),
  )
})

test('what the vendor accepts is accepted: strings and lists, defaults, unknown members', async () => {
  const world = await start()
  const fake = await world.connector()
  await fake.register()
  const servers = [
    { ...ok, tags: ['env=prod', 'note=a=b'], future: 1 },
    { name: 'b', host: 'fd00::1', port: '2222', user: 'admin' },
  ]
  const body = integrationBody(
    { future: true },
    { servers, user_groups: ['dbadmins', 'Default'], on_revoke: 'keep', uid_range: '[30000, 30999]' },
  )
  const made = await world.admin.ok('POST', PATH, body)
  expect(made).toMatchObject({ type: 'ssh', status: 'Initializing', connector_id: 'c1' })
  expect(made['integration_config']).toEqual({
    servers: JSON.stringify(servers),
    user_groups: '["dbadmins","Default"]',
    on_revoke: 'keep',
    uid_range: '[30000, 30999]',
  })
  const jobs = await fake.claim()
  expect(jobs.map(({ server }) => server)).toMatchObject([
    { name: 'a', user: 'apono', port: 22, tags: { env: 'prod', note: 'a=b' } },
    { name: 'b', host: 'fd00::1', port: 2222, user: 'admin' },
  ])
  expect(jobs[0]?.integration).toMatchObject({
    userGroups: ['dbadmins'],
    policy: { onRevoke: 'keep', existingUser: 'refuse', uidRange: [30000, 30999] },
    secretStore: { type: 'file', path: '/run/secrets/key.json' },
  })
})

test('status and details follow what the inspections found', async () => {
  const world = await start()
  const fake = await world.connector()
  await fake.register()
  const { id } = await world.admin.ok('POST', PATH, integrationBody())
  const look = () => world.admin.ok('GET', `${PATH}/${id}`)
  const [first, second] = await fake.claim()
  if (first?.kind !== 'inspect' || second?.kind !== 'inspect') throw new Error('two inspections expected')
  await fake.succeed(first, inspectResult(first))
  expect(await look()).toMatchObject({ status: 'Initializing' })
  const hint = 'Add this line to the sudoers file (visudo):\nadmin ALL=(ALL) NOPASSWD:ALL'
  await fake.fail(second, 'sudo_password_required', { message: 'sudo asks for a password', hint })
  expect(await look()).toMatchObject({
    status: 'Warning',
    details: `web-2: Missing permissions: sudo asks for a password\n${hint}`,
  })
  const resources = await world.admin.ok('GET', `/api/v3/integrations/${id}/resources`)
  expect(resources['data']).toMatchObject([
    { name: 'web-1', status: { status: 'Active', message: null } },
    { name: 'web-2', status: { status: 'Error', message: expect.stringContaining('NOPASSWD') } },
  ])

  world.clock.advance(1000)
  await world.admin.ok('POST', `/api/v2/integrations/${id}/refresh`)
  expect(await look()).toMatchObject({ status: 'Refreshing' })
  for (const job of await fake.claim()) await fake.fail(job, 'ssh_auth_failed')
  expect(await look()).toMatchObject({ status: 'Error' })

  world.clock.advance(1000)
  await world.admin.ok('POST', `/api/v2/integrations/${id}/refresh`)
  await fake.work()
  expect(await look()).toMatchObject({
    status: 'Active',
    details: '2 resources loaded',
    last_sync_time: expect.any(String),
  })
})

test('an inspection that found an error in a reachable server makes the resource an error', async () => {
  const world = await start()
  const fake = await world.connector()
  await fake.register()
  const { id } = await world.admin.ok('POST', PATH, integrationBody({}, { servers: [ok] }))
  const job = await fake.claimOne()
  if (job.kind !== 'inspect') throw new Error('inspection expected')
  const problem = {
    code: 'tool_missing',
    message: 'useradd is missing',
    hint: 'Install it.',
    severity: 'error' as const,
  }
  await fake.succeed(job, inspectResult(job, { problems: [problem] }))
  expect(await world.admin.ok('GET', `${PATH}/${id}`)).toMatchObject({
    status: 'Error',
    details: 'useradd is missing\nInstall it.',
  })
})

test('servers are inspected by the hour, and a retryable failure is looked at again sooner', async () => {
  const scene = await stage()
  scene.clock.advance(60 * 60_000)
  await scene.fake.register()
  const [first, second] = await scene.fake.claim()
  if (!first || !second) throw new Error('two inspections expected')
  // Nobody asked for it, so a key that the server refused is not offered again.
  expect(first).toMatchObject({ kind: 'inspect', asked: false })
  await scene.fake.fail(first, 'ssh_timeout', { retryable: true })
  await scene.fake.fail(second, 'ssh_auth_failed')
  scene.clock.advance(15_000)
  const again = await scene.fake.claimOne()
  expect(again.server.id).toBe(first.server.id)
  await scene.fake.fail(again, 'ssh_auth_failed')
  scene.clock.advance(1)
  await scene.admin.ok('POST', `/api/v2/integrations/${scene.integrationId}/refresh`)
  for (const job of await scene.fake.claim()) expect(job).toMatchObject({ kind: 'inspect', asked: true })
})

test('an update keeps what is not sent, keeps the ids of servers by name, and shows removed ones as deleted', async () => {
  const scene = await stage()
  const [before] = (await scene.admin.ok('GET', `/api/v3/integrations/${scene.integrationId}/resources`))['data'] as {
    id: string
  }[]
  const servers = JSON.stringify([{ ...SERVERS[0], tags: { env: 'test' } }])
  const body = { name: 'New name', integration_config: { servers } }
  const updated = await scene.admin.ok('PUT', `${PATH}/${scene.integrationId}`, body)
  expect(updated).toMatchObject({
    name: 'New name',
    connector_id: 'c1',
    secret_store_config: { file: { path: '/run/secrets/key.json' } },
  })
  const after = (await scene.admin.ok('GET', `/api/v3/integrations/${scene.integrationId}/resources`))['data']
  expect(after).toMatchObject([
    { id: before?.id, status: { status: 'Active' } },
    { name: 'web-2', status: { status: 'Deleted' } },
  ])
  const [job] = await scene.fake.claim()
  expect(job?.integration).toMatchObject({ version: 2, name: 'New name' })
})

test('names are unique, deleted integrations are gone, and theirs is free again', async () => {
  const scene = await stage()
  expect(await scene.admin.call('POST', PATH, integrationBody())).toMatchObject({ status: 409 })
  expect((await scene.admin.call('DELETE', `${PATH}/${scene.integrationId}`)).status).toBe(204)
  expect((await scene.admin.call('GET', `${PATH}/${scene.integrationId}`)).status).toBe(404)
  expect((await scene.admin.call('DELETE', `${PATH}/${scene.integrationId}`)).status).toBe(404)
  await scene.admin.ok('POST', PATH, integrationBody())
})

test('lists come in pages, with filters', async () => {
  const world = await start()
  await world.connector()
  for (const name of ['A', 'B', 'C']) await world.admin.ok('POST', PATH, integrationBody({ name }))
  const first = await world.admin.ok('GET', `${PATH}?limit=2`)
  expect(first['items']).toMatchObject([{ name: 'A' }, { name: 'B' }])
  const token = Object(first['pagination'])['next_page_token']
  const second = await world.admin.ok('GET', `${PATH}?limit=2&page_token=${token}`)
  expect(second).toMatchObject({ items: [{ name: 'C' }], pagination: { next_page_token: null } })
  expect((await world.admin.ok('GET', `${PATH}?name=B&type=ssh`))['items']).toMatchObject([{ name: 'B' }])
  for (const query of ['limit=0', 'limit=x', 'page_token=;drop', 'limit=100000']) {
    expect((await world.admin.call('GET', `${PATH}?${query}`)).status, query).toBe(400)
  }
})

test('connectors are listed with their live instances, renamed, and deleted when nothing needs them', async () => {
  const scene = await stage()
  expect(await scene.admin.ok('GET', '/api/admin/v3/connectors/c1')).toMatchObject({
    id: 'c1',
    status: 'CONNECTED',
    version: '0.1.0',
    sessions: [{ id: scene.fake.instanceId }],
  })
  await scene.admin.ok('PUT', '/api/admin/v3/connectors/c1', { name: 'Production VPC' })
  expect(await scene.admin.call('DELETE', '/api/admin/v3/connectors/c1')).toMatchObject({ status: 409 })
  scene.clock.advance(61_000)
  const list = await scene.admin.ok('GET', '/api/admin/v3/connectors')
  expect(list['items']).toMatchObject([{ name: 'Production VPC', status: 'DISCONNECTED', sessions: [] }])
  await scene.admin.ok('DELETE', `${PATH}/${scene.integrationId}`)
  expect((await scene.admin.call('DELETE', '/api/admin/v3/connectors/c1')).status).toBe(204)
  expect((await scene.fake.caller.call('POST', '/connector/v1/register', scene.fake.registration())).status).toBe(401)
})

test('a late inspection of the former address says nothing about the machine at the new one', async () => {
  const scene = await stage()
  await scene.admin.ok('POST', `/api/v2/integrations/${scene.integrationId}/refresh`)
  const late = (await scene.fake.claim()).find(({ server }) => server.name === 'web-1')
  if (late?.kind !== 'inspect') throw new Error('inspection expected')
  const servers = [{ name: 'web-1', host: '10.0.0.77' }]
  const path = `/api/admin/v4/integrations/${scene.integrationId}`
  await scene.admin.ok('PUT', path, integrationBody({}, { servers }))
  expect(await scene.fake.succeed(late, inspectResult(late))).toBe('accepted')
  expect(await scene.admin.ok('GET', path)).toMatchObject({ status: 'Initializing' })
  const now = await scene.fake.claimOne()
  expect(now.server).toMatchObject({ host: '10.0.0.77', hostKeys: [] })
  await scene.admin.ok('PUT', path, integrationBody({}, { servers: [{ name: 'web-1', host: '10.0.0.78' }] }))
  await scene.fake.fail(now, 'ssh_auth_failed')
  expect(await scene.admin.ok('GET', path)).toMatchObject({ status: 'Initializing' })
})

test('an integration that is switched off grants nothing new, and what was granted goes on to its end', async () => {
  const scene = await stage()
  const path = `/api/admin/v4/integrations/${scene.integrationId}`
  const active = await scene.grant()
  await scene.fake.work()
  const [waiting] = (await scene.dana.ok('POST', '/api/user/v4/access-requests', {
    entitlements: [{ resource_id: 'web-2', permission_id: 'Default' }],
    custom_fields: { public_key: OWN_KEY },
  })) as unknown as { id: string }[]
  expect(await scene.admin.ok('POST', `/api/v1/integrations/${scene.integrationId}/disable`)).toMatchObject({
    status: 'Disabled',
  })
  expect((await scene.dana.call('POST', `/api/v1/integrations/${scene.integrationId}/enable`)).status).toBe(403)
  const approved = await scene.admin.call('POST', `/api/v1/access-requests/${waiting?.id}/approve`)
  expect(approved.status).toBe(409)
  const asked = await scene.dana.call('POST', '/api/user/v4/access-requests', {
    entitlements: [{ resource_id: 'web-1', permission_id: 'Default' }],
    custom_fields: { public_key: OWN_KEY },
  })
  expect(asked.status).toBe(400)
  await scene.dana.ok('POST', `/api/user/v4/access-requests/${active}/revoke`)
  await scene.fake.work()
  expect(await scene.status(active)).toBe('Revoked')

  scene.clock.advance(1000)
  await scene.admin.ok('POST', `/api/v1/integrations/${scene.integrationId}/enable`)
  expect(await scene.admin.ok('GET', path)).toMatchObject({ status: 'Refreshing' })
  await scene.admin.ok('POST', `/api/v1/access-requests/${waiting?.id}/approve`)
})
