import { randomUUID } from 'node:crypto'
import { expect, test } from 'vitest'
import { Caller, FakeConnector, inspectResult, integrationBody, stage, start } from './harness.ts'

const CALLS = [
  ['POST', '/connector/v1/register'],
  ['POST', '/connector/v1/claim'],
  ['POST', '/connector/v1/renew'],
  ['POST', '/connector/v1/report'],
  ['GET', '/connector/v1/grants'],
  ['POST', '/connector/v1/deregister'],
] as const

test('without a good token every call is 401 invalid_token, and says nothing else', async () => {
  const world = await start()
  const wrong = [null, 'x', `apc_${'A'.repeat(43)}`, world.admin.token]
  for (const [method, path] of CALLS) {
    for (const token of wrong) {
      const answer = await new Caller(world.controlPlane.url, token).call(
        method,
        path,
        method === 'POST' ? {} : undefined,
      )
      expect(answer.status).toBe(401)
      expect(answer.body).toEqual({ type: 'about:blank', title: 'invalid token', status: 401, code: 'invalid_token' })
      expect(answer.headers.get('content-type')).toContain('application/problem+json')
    }
  }
})

test('a token is for one connector: given with it, or bound by its first register', async () => {
  const world = await start()
  const bound = await world.connector('c1')
  const other = { ...bound.registration(), connectorId: 'c2' }
  expect(await bound.caller.call('POST', '/connector/v1/register', other)).toMatchObject({
    status: 403,
    body: { code: 'connector_not_allowed' },
  })
  const { token } = await world.admin.ok('POST', '/api/v1/connector-tokens', {})
  const free = new FakeConnector(new Caller(world.controlPlane.url, String(token)), 'c3')
  await free.register()
  free.instanceId = randomUUID()
  expect(
    await free.caller.call('POST', '/connector/v1/register', { ...free.registration(), connectorId: 'c4' }),
  ).toMatchObject({
    status: 403,
  })
})

test('an instance belongs to the token that registered it', async () => {
  const scene = await stage()
  const stranger = await scene.connector('c2')
  await stranger.register()
  stranger.instanceId = scene.fake.instanceId
  expect(await stranger.caller.call('POST', '/connector/v1/register', stranger.registration())).toMatchObject({
    status: 403,
  })
  const body = { instanceId: scene.fake.instanceId, freeSlots: 1, waitMs: 0, inFlight: [] }
  expect(await stranger.caller.call('POST', '/connector/v1/claim', body)).toMatchObject({
    status: 409,
    body: { code: 'unknown_instance' },
  })
})

test('a rotated token takes its instance over by registering again', async () => {
  const scene = await stage()
  const rotated = await scene.connector('c1')
  rotated.instanceId = scene.fake.instanceId
  const body = { instanceId: rotated.instanceId, inFlight: [] }
  expect(await rotated.caller.call('POST', '/connector/v1/renew', body)).toMatchObject({ status: 409 })
  await rotated.register()
  expect(await rotated.renew([])).toEqual([])
})

test('another connector sees and changes nothing of ours', async () => {
  const scene = await stage()
  await scene.grant()
  const job = await scene.fake.claimEnsure()
  const stranger = await scene.connector('c2')
  await stranger.register()
  expect(await stranger.claim()).toEqual([])
  expect((await stranger.grants()).grants).toEqual([])
  expect(await stranger.renew([job])).toEqual(['lost'])
  expect(await stranger.fail(job, 'internal_error')).toBe('stale')
  expect(await stranger.deregister([job])).toBe(204)
  expect(await scene.fake.renew([job])).toEqual(['ok'])
})

test('a connector of another protocol is told to upgrade', async () => {
  const world = await start()
  const fake = await world.connector()
  const newer = { ...fake.registration(), protocol: { min: 2, max: 3 } }
  expect(await fake.caller.call('POST', '/connector/v1/register', newer)).toMatchObject({
    status: 426,
    body: { code: 'upgrade_required' },
  })
  const both = { ...fake.registration(), protocol: { min: 1, max: 3 } }
  expect(await fake.caller.call('POST', '/connector/v1/register', both)).toMatchObject({
    status: 200,
    body: { protocol: 1 },
  })
})

test('bad bodies are problems with every path named; unknown members are none', async () => {
  const world = await start()
  const fake = await world.connector()
  const bad = await fake.caller.call('POST', '/connector/v1/register', {
    ...fake.registration(),
    slots: 0,
    version: undefined,
  })
  expect(bad).toMatchObject({
    status: 400,
    body: { code: 'invalid_request', errors: [{ path: 'version', message: 'required' }, { path: 'slots' }] },
  })
  expect(bad.headers.get('content-type')).toContain('application/problem+json')
  for (const body of ['{', '[]', '"x"', '3', '{"a":1}', '{"__proto__":{}}']) {
    expect((await fake.caller.call('POST', '/connector/v1/claim', body)).status).toBe(400)
  }
  await fake.caller.ok('POST', '/connector/v1/register', { ...fake.registration(), futureMember: { a: 1 } })
  const unknown = await fake.caller.call('POST', '/connector/v1/frobnicate', {})
  expect(unknown).toMatchObject({ status: 404, body: { code: 'not_found' } })
  const large = await fake.caller.call('POST', '/connector/v1/claim', `{"a":"${'x'.repeat(1024 * 1024)}"}`)
  expect(large).toMatchObject({ status: 413, body: { code: 'body_too_large' } })
  expect(large.headers.get('content-type')).toContain('application/problem+json')
})

test('registering tells what the connector must know, the same id each time', async () => {
  const world = await start({ knobs: { leaseTtlMs: 30_000 } })
  const fake = await world.connector()
  const first = await fake.register()
  expect(first.controlPlaneId).toBe(world.controlPlane.controlPlaneId)
  expect(first.knobs).toMatchObject({ leaseTtlMs: 30_000, renewEveryMs: 20_000 })
  expect(first.serverTime).toBe(new Date(world.clock.now()).toISOString())
})

test('the first host key and host id that are reported go into later jobs; a new address forgets them', async () => {
  const scene = await stage()
  const servers = [{ name: 'web-1', host: '10.0.0.1' }]
  await scene.admin.ok('PUT', `/api/admin/v4/integrations/${scene.integrationId}`, integrationBody({}, { servers }))
  const again = await scene.fake.claimOne()
  expect(again.server.hostKeys).toHaveLength(1)
  await scene.fake.fail(again, 'host_key_changed')
  const moved = [{ name: 'web-1', host: '10.0.0.77' }]
  await scene.admin.ok(
    'PUT',
    `/api/admin/v4/integrations/${scene.integrationId}`,
    integrationBody({}, { servers: moved }),
  )
  expect((await scene.fake.claimOne()).server).toMatchObject({ host: '10.0.0.77', hostKeys: [] })
})

test('an instance id that is not one is refused', async () => {
  const world = await start()
  const fake = await world.connector()
  fake.instanceId = `${randomUUID()}${'x'.repeat(100)}`
  expect(await fake.caller.call('POST', '/connector/v1/register', fake.registration())).toMatchObject({ status: 400 })
})

test('a batch of large results is taken', async () => {
  const scene = await stage()
  await scene.admin.ok('POST', `/api/v2/integrations/${scene.integrationId}/refresh`)
  const [job] = await scene.fake.claim()
  if (job?.kind !== 'inspect') throw new Error('inspection expected')
  const problem = { code: 'x', message: 'm'.repeat(1000), hint: 'h'.repeat(2000), severity: 'warning' as const }
  expect(await scene.fake.succeed(job, inspectResult(job, { problems: Array(1000).fill(problem) }))).toBe('accepted')
})

test('without a token nothing of the body is looked at', async () => {
  const world = await start()
  for (const path of ['/connector/v1/report', '/api/v1/users']) {
    expect((await world.anonymous.call('POST', path, '{')).status).toBe(401)
    expect((await world.anonymous.call('POST', path, '{}')).status).toBe(401)
  }
})
