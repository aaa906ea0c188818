import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { dig, integrationBody, OWN_KEY, stage, start } from './harness.ts'

const PATH = '/api/user/v4/access-requests'

const body = (changes: object = {}) => ({
  entitlements: [{ resource_id: 'web-1', permission_id: 'dbadmins' }],
  duration_in_sec: 60,
  custom_fields: {},
  ...changes,
})

const BAD: readonly [string, unknown, string][] = [
  ['no entitlements', body({ entitlements: undefined }), 'entitlements: required'],
  ['empty entitlements', body({ entitlements: [] }), 'entitlements: at least one'],
  [
    'unknown resource',
    body({ entitlements: [{ resource_id: 'nope', permission_id: 'Default' }] }),
    'entitlements[0].resource_id: no such resource',
  ],
  [
    'unknown permission',
    body({ entitlements: [{ resource_id: 'web-1', permission_id: 'wheel' }] }),
    'entitlements[0].permission_id: no such permission',
  ],
  ['no permission', body({ entitlements: [{ resource_id: 'web-1' }] }), 'entitlements[0].permission_id: required'],
  ['too short', body({ duration_in_sec: 9 }), 'duration_in_sec: must be at least 10'],
  ['too long', body({ duration_in_sec: 30 * 24 * 3600 + 1 }), 'duration_in_sec: must be at most'],
  ['a fraction', body({ duration_in_sec: 10.5 }), 'duration_in_sec: must be a whole number'],
  ['a string', body({ duration_in_sec: '60' }), 'duration_in_sec: must be a whole number'],
  [
    'a private key',
    body({ custom_fields: { public_key: '-----BEGIN OPENSSH PRIVATE KEY-----' } }),
    'custom_fields.public_key: this is a private key',
  ],
  ['a broken key', body({ custom_fields: { public_key: 'ssh-ed25519 AAAA' } }), 'custom_fields.public_key: '],
  ['a bundle', body({ bundle_reference: 'b' }), 'bundle_reference: bundles are not supported yet'],
  ['for someone else', body({ grantee: 'eve@example.com' }), 'grantee: requests for someone else'],
  ['a list', [], 'body: '],
]

test.each(BAD)('a request with %s is refused', async (_name, input, expected) => {
  const scene = await stage()
  const answer = await scene.dana.call('POST', PATH, input)
  expect(answer.status).toBe(400)
  const errors = answer.body['errors'] as { path: string; message: string }[]
  const lines = errors.map(({ path, message }) => `${path}: ${message}`)
  expect(
    lines.some((line) => line.startsWith(expected)),
    `${expected} in ${lines}`,
  ).toBe(true)
})

test('several permissions on one server are one grant with the union; each server has its own', async () => {
  const scene = await stage()
  const entitlements = [
    { resource_id: 'web-1', permission_id: 'dbadmins' },
    { resource_id: 'Production servers/web-1', permission_id: 'sudo' },
    { resource_id: 'web-1', permission_id: 'Default' },
    { resource_id: 'web-2', permission_id: 'Default' },
  ]
  const id = dig(await scene.dana.ok('POST', PATH, body({ entitlements })), 0, 'id')
  await scene.admin.ok('POST', `/api/v1/access-requests/${id}/approve`)
  const jobs = await scene.fake.work()
  expect(jobs.map((job) => job.kind === 'ensure' && job.grant.groups)).toEqual([['dbadmins', 'sudo'], []])
  const listed = await scene.dana.ok('GET', `${PATH}/${id}/entitlements`)
  expect(listed['items']).toHaveLength(4)
})

test('a name that two servers have must be said with its integration', async () => {
  const scene = await stage()
  const twin = { name: 'Twin', type: 'ssh', connector_id: 'c1', secret_store_config: { file: { path: '/k' } } }
  await scene.admin.ok('POST', '/api/admin/v4/integrations', {
    ...twin,
    integration_config: { servers: '[{"name":"web-1","host":"10.5.5.5"}]' },
  })
  expect(await scene.dana.call('POST', PATH, body())).toMatchObject({
    status: 400,
    body: { errors: [{ path: 'entitlements[0].resource_id', message: expect.stringContaining('integration/server') }] },
  })
  await scene.dana.ok('POST', PATH, body({ entitlements: [{ resource_id: 'Twin/web-1', permission_id: 'Default' }] }))
})

test('only admins approve, reject and extend, and nobody their own', async () => {
  const scene = await stage()
  const eve = await scene.person('eve@example.com')
  const id = dig(await scene.dana.ok('POST', PATH, body()), 0, 'id')
  for (const verb of ['approve', 'reject', 'extend']) {
    for (const who of [scene.dana, eve]) {
      const answer = await who.call('POST', `/api/v1/access-requests/${id}/${verb}`, { duration_in_sec: 60 })
      expect(answer).toMatchObject({ status: 403 })
      expect(await who.call('POST', `/api/v1/access-requests/req_nope/${verb}`, {})).toMatchObject(
        answer.body ? { body: answer.body } : {},
      )
    }
  }
  const own = dig(await scene.admin.ok('POST', PATH, body()), 0, 'id')
  expect(await scene.admin.call('POST', `/api/v1/access-requests/${own}/approve`)).toMatchObject({
    status: 403,
    body: { message: expect.stringContaining('nobody approves their own') },
  })
  const second = await scene.person('ops@example.com', 'admin')
  await second.ok('POST', `/api/v1/access-requests/${own}/approve`)
})

test('what was decided stays decided', async () => {
  const scene = await stage()
  const id = dig(await scene.dana.ok('POST', PATH, body()), 0, 'id')
  await scene.admin.ok('POST', `/api/v1/access-requests/${id}/reject`)
  expect(await scene.status(String(id))).toBe('Rejected')
  expect(await scene.admin.call('POST', `/api/v1/access-requests/${id}/approve`)).toMatchObject({ status: 409 })
  const withdrawn = dig(await scene.dana.ok('POST', PATH, body()), 0, 'id')
  await scene.dana.ok('POST', `${PATH}/${withdrawn}/revoke`)
  await scene.dana.ok('POST', `${PATH}/${withdrawn}/revoke`)
  expect(await scene.status(String(withdrawn))).toBe('Revoked')
  expect(await scene.admin.call('POST', `/api/v1/access-requests/${withdrawn}/approve`)).toMatchObject({ status: 409 })
})

test('a request whose server is gone is not approved by halves', async () => {
  const scene = await stage()
  const both = [
    { resource_id: 'web-1', permission_id: 'Default' },
    { resource_id: 'web-2', permission_id: 'Default' },
  ]
  const id = dig(await scene.dana.ok('POST', PATH, body({ entitlements: both })), 0, 'id')
  const without = {
    name: 'Production servers',
    integration_config: { servers: '[{"name":"web-1","host":"10.0.0.1"}]' },
  }
  await scene.admin.ok('PUT', `/api/admin/v4/integrations/${scene.integrationId}`, without)
  expect(await scene.admin.call('POST', `/api/v1/access-requests/${id}/approve`)).toMatchObject({ status: 409 })
  expect(await scene.status(String(id))).toBe('Pending')
  expect((await scene.admin.ok('GET', '/api/v1/grants'))['items']).toEqual([])
})

test("people see their own requests and nothing of others; others' look like none", async () => {
  const scene = await stage()
  const eve = await scene.person('eve@example.com')
  const id = dig(await scene.dana.ok('POST', PATH, body()), 0, 'id')
  expect((await eve.ok('GET', PATH))['items']).toEqual([])
  for (const path of [`${PATH}/${id}`, `${PATH}/${id}/entitlements`]) {
    const foreign = await eve.call('GET', path)
    const none = await eve.call('GET', path.replace(String(id), 'req_none'))
    expect(foreign).toMatchObject({ status: 403, body: none.body })
  }
  expect((await eve.call('POST', `${PATH}/${id}/revoke`)).status).toBe(403)
  expect((await scene.dana.ok('GET', PATH))['items']).toHaveLength(1)
  expect((await scene.admin.ok('GET', `${PATH}?statuses=Pending`))['items']).toHaveLength(1)
  expect((await scene.admin.ok('GET', `${PATH}?statuses=Active`))['items']).toEqual([])
})

const ADMIN_CALLS = [
  ['GET', '/api/admin/v4/integrations'],
  ['POST', '/api/admin/v4/integrations'],
  ['GET', '/api/admin/v4/integrations/int_x'],
  ['PUT', '/api/admin/v4/integrations/int_x'],
  ['DELETE', '/api/admin/v4/integrations/int_x'],
  ['POST', '/api/v2/integrations/int_x/refresh'],
  ['GET', '/api/v3/integrations/int_x/resources'],
  ['GET', '/api/v3/integrations/int_x/permissions'],
  ['GET', '/api/admin/v3/connectors'],
  ['GET', '/api/admin/v3/connectors/c1'],
  ['PUT', '/api/admin/v3/connectors/c1'],
  ['DELETE', '/api/admin/v3/connectors/c1'],
  ['GET', '/api/v1/users'],
  ['POST', '/api/v1/users'],
  ['POST', '/api/v1/users/usr_x/tokens'],
  ['POST', '/api/v1/connector-tokens'],
  ['GET', '/api/v1/grants'],
  ['GET', '/api/v1/grants/grt_x'],
  ['POST', '/api/v1/grants/grt_x/abandon'],
  ['GET', '/api/v1/audit'],
] as const
const USER_CALLS = [
  ['GET', PATH],
  ['POST', PATH],
  ['GET', '/api/user/v1/access-sessions'],
  ['GET', '/api/user/v1/access-sessions/x'],
  ['GET', '/api/user/v1/access-sessions/x/access-details'],
  ['GET', '/api/user/v1/available-access/entitlements'],
  ['GET', '/api/v1/users/me'],
] as const

test('every call wants a good token; a wrong one gets 401 and nothing else', async () => {
  const world = await start()
  const connector = await world.connector()
  for (const [method, path] of [...ADMIN_CALLS, ...USER_CALLS]) {
    for (const token of [null, 'x'.repeat(2000), `aup_${'A'.repeat(43)}`, connector.caller.token]) {
      const caller = Object.assign(Object.create(Object.getPrototypeOf(world.admin)), {
        url: world.controlPlane.url,
        token,
      })
      const answer = await caller.call(method, path, method === 'GET' ? undefined : {})
      expect({ method, path, ...answer, headers: null }).toEqual({
        method,
        path,
        status: 401,
        body: { status: '401', code: 'Unauthorized' },
        headers: null,
      })
    }
  }
})

test('what is for admins is forbidden to people, whether the thing exists or not', async () => {
  const world = await start()
  const dana = await world.person('dana@example.com')
  for (const [method, path] of ADMIN_CALLS) {
    const answer = await dana.call(method, path, method === 'GET' ? undefined : {})
    expect({ method, path, status: answer.status }).toEqual({ method, path, status: 403 })
    expect(answer.body['message']).toBe('you are not allowed to do this')
  }
})

test('bad HTTP is never our defect', async () => {
  const world = await start()
  const call = (path: string, text: string, type = 'application/json') =>
    fetch(`${world.controlPlane.url}${path}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${world.admin.token}`, 'content-type': type },
      body: text,
    })
  expect((await call('/api/v1/users', '{')).status).toBe(400)
  expect((await call('/api/v1/users', '')).status).toBe(400)
  expect((await call('/api/v1/users', 'null')).status).toBe(400)
  expect((await call('/api/v1/users', 'a=b', 'application/x-www-form-urlencoded')).status).toBe(415)
  const large = await call('/api/v1/users', `"${'x'.repeat(1024 * 1024)}"`)
  expect(large.status).toBe(413)
  expect(await large.json()).toMatchObject({ status: '413', code: 'BodyTooLarge' })
  const unknown = await call('/api/v9/nothing', '{}')
  expect(unknown.status).toBe(404)
  expect(await unknown.json()).toMatchObject({ status: '404', code: 'NotFound' })
  for (const path of ['/api/v1/grants/%00', '/api/v1/grants/..%2f..', `/api/v1/grants/${'x'.repeat(5000)}`, '/%ff']) {
    const answer = await world.admin.call('GET', path)
    expect(answer.status, path).toBeGreaterThanOrEqual(400)
    expect(answer.status, path).toBeLessThan(500)
  }
})

test('logins: derived once, never of the system, never shared', async () => {
  const world = await start()
  const make = async (input: object) => world.admin.call('POST', '/api/v1/users', input)
  const login = async (email: string) => (await make({ email })).body['login']
  expect(await login('Dana.Scully@example.com')).toBe('dana-scully')
  expect(await login('dana.scully@other.example')).toBe('dana-scully-2')
  expect(await login('root@example.com')).toBe('root-2')
  expect(await login('ubuntu@example.com')).toBe('ubuntu-2')
  expect(await login('42@example.com')).toBe('u42')
  expect(await login('ÄÖ@example.com')).toBe('person')
  expect(await login(`${'x'.repeat(60)}@example.com`)).toBe('x'.repeat(32))
  expect(await login(`${'x'.repeat(61)}@example.com`)).toBe(`${'x'.repeat(30)}-2`)
  expect(await make({ email: 'dana.scully@EXAMPLE.com' })).toMatchObject({ status: 409 })
  expect(await make({ email: 'a@b', login: 'sshd' })).toMatchObject({
    status: 400,
    body: { errors: [{ path: 'login' }] },
  })
  expect(await make({ email: 'a@b', login: 'dana-scully' })).toMatchObject({ status: 409 })
  expect(await make({ email: 'a@b', login: 'Dana' })).toMatchObject({ status: 400 })
  expect(await make({ email: 'nobody' })).toMatchObject({ status: 400, body: { errors: [{ path: 'email' }] } })
  expect(await make({ email: 'a\n@b' })).toMatchObject({ status: 400 })
})

test('everything that can be asked for is listed', async () => {
  const scene = await stage()
  const all = await scene.dana.ok('GET', '/api/user/v1/available-access/entitlements')
  expect(all['items']).toHaveLength(6)
  const some = await scene.dana.ok(
    'GET',
    '/api/user/v1/available-access/entitlements?resource_name=web-2&permission_name=Default',
  )
  expect(some['items']).toMatchObject([
    { resource: { source_id: 'Production servers/web-2' }, permission: { id: 'Default' } },
  ])
  const page = await scene.dana.ok('GET', '/api/user/v1/available-access/entitlements?limit=4')
  const rest = await scene.dana.ok(
    'GET',
    `/api/user/v1/available-access/entitlements?limit=4&page_token=${dig(page, 'pagination', 'next_page_token')}`,
  )
  expect(rest['items']).toHaveLength(2)
  expect(dig(rest, 'pagination', 'next_page_token')).toBeNull()
})

test("a key of one's own reaches the grant re-serialised", async () => {
  const scene = await stage()
  await scene.grant({ publicKey: `  ${OWN_KEY}   dana@laptop ; rm -rf /  ` })
  expect((await scene.fake.claimEnsure()).grant.publicKey).toBe(OWN_KEY)
})

const GROUPS = Array.from({ length: 101 }, (_, index) => `group${index}`)
const ask = (groups: readonly string[]) =>
  body({ entitlements: groups.map((permission_id) => ({ resource_id: 'web-1', permission_id })) })

test('more groups on one server than a grant can have are refused when they are asked for, and when approved', async () => {
  const scene = await stage()
  const wide = integrationBody({}, { user_groups: GROUPS.join(',') })
  await scene.admin.ok('PUT', `/api/admin/v4/integrations/${scene.integrationId}`, wide)
  expect(await scene.dana.call('POST', PATH, ask(GROUPS))).toMatchObject({
    status: 400,
    body: { errors: [{ path: 'entitlements[100].permission_id', message: expect.stringMatching(/more than 100/) }] },
  })
  const most = await scene.dana.ok('POST', PATH, ask(['Default', ...GROUPS.slice(1), 'group1']))
  const id = String(dig(most, 0, 'id'))
  const entitlements = GROUPS.map((permission) => ({ serverId: 'SERVER', permission }))
  const db = new DatabaseSync(join(scene.stateDir, 'control-plane.db'), { timeout: 5000 })
  const serverId = String(db.prepare("SELECT id FROM servers WHERE doc LIKE '%web-1%'").get()?.['id'])
  const text = JSON.stringify(entitlements).replaceAll('SERVER', serverId)
  db.prepare("UPDATE requests SET doc = json_set(doc, '$.entitlements', json(?)) WHERE id = ?").run(text, id)
  db.close()
  expect(await scene.admin.call('POST', `/api/v1/access-requests/${id}/approve`)).toMatchObject({ status: 409 })
  expect(await scene.status(id)).toBe('Pending')
})

test('a grant that would not fit the protocol is not made', async () => {
  const scene = await stage()
  const id = String(dig(await scene.dana.ok('POST', PATH, body()), 0, 'id'))
  const db = new DatabaseSync(join(scene.stateDir, 'control-plane.db'), { timeout: 5000 })
  db.prepare("UPDATE users SET doc = json_set(doc, '$.login', 'da,na') WHERE email = 'dana@example.com'").run()
  db.close()
  expect(await scene.admin.call('POST', `/api/v1/access-requests/${id}/approve`)).toMatchObject({ status: 409 })
})
