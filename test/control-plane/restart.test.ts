import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { Caller, dig, FakeConnector, integrationBody, presentResult, stage, start, tempFolder } from './harness.ts'

test('everything is kept over a restart: tokens, requests, leases, epochs, ends', async () => {
  const scene = await stage()
  const active = await scene.grant()
  await scene.fake.work()
  const waiting = await scene.grant({ server: 'web-2' })
  const held = await scene.fake.claimEnsure()

  const again = await scene.restart()
  expect(again.controlPlane.firstAdminToken).toBeNull()
  expect(again.controlPlane.controlPlaneId).toBe(scene.controlPlane.controlPlaneId)
  const fake = new FakeConnector(new Caller(again.controlPlane.url, scene.fake.caller.token), 'c1')
  fake.instanceId = scene.fake.instanceId
  // The instance is still known, its lease still its own.
  expect(await fake.renew([held])).toEqual(['ok'])
  expect(await fake.succeed(held, presentResult(held))).toBe('accepted')
  for (const id of [active, waiting]) {
    expect(await again.admin.ok('GET', `/api/user/v4/access-requests/${id}`)).toMatchObject({ status: 'Active' })
  }
  again.clock.advance(3_600_000)
  await fake.register()
  const ends = await fake.claim()
  expect(ends.filter((job) => job.kind === 'ensure' && job.grant.state === 'absent')).toHaveLength(2)
  for (const { epoch } of ends) expect(epoch).toBeGreaterThan(held.epoch)
})

test('a lease that lapsed while nothing ran is handed out again', async () => {
  const scene = await stage()
  await scene.grant()
  const held = await scene.fake.claimEnsure()
  await scene.controlPlane.stop()
  scene.clock.advance(120_000)
  const again = await scene.restart()
  const fake = new FakeConnector(new Caller(again.controlPlane.url, scene.fake.caller.token), 'c1')
  await fake.register()
  const job = await fake.claimEnsure()
  expect(job.jobId).toBe(held.jobId)
  expect(await fake.succeed(held, presentResult(held))).toBe('stale')
})

test('what ended while nothing ran ends at start', async () => {
  const scene = await stage()
  const id = await scene.grant({ seconds: 60 })
  await scene.fake.work()
  await scene.controlPlane.stop()
  scene.clock.advance(60_000)
  const again = await scene.restart()
  const fake = new FakeConnector(new Caller(again.controlPlane.url, scene.fake.caller.token), 'c1')
  await fake.register()
  expect((await fake.claimEnsure()).grant.state).toBe('absent')
  expect(await again.admin.ok('GET', `/api/user/v4/access-requests/${id}`)).toMatchObject({ status: 'Revoking' })
})

test('a private key that was not shown yet is still shown after a restart', async () => {
  const scene = await stage()
  await scene.grant({ publicKey: '' })
  await scene.fake.work()
  const again = await scene.restart()
  const dana = new Caller(again.controlPlane.url, scene.dana.token)
  const id = dig(await dana.ok('GET', '/api/user/v1/access-sessions'), 'items', 0, 'id')
  const details = await dana.ok('GET', `/api/user/v1/access-sessions/${id}/access-details`)
  expect(dig(details, 'parameters', 'private_key')).toContain('OPENSSH PRIVATE KEY')
})

test('only the owner may look into the state folder', async () => {
  const world = await start({ stateDir: join(await tempFolder(), 'deep', 'state') })
  expect((await stat(world.stateDir)).mode & 0o777).toBe(0o700)
  expect(await readdir(world.stateDir)).toContain('encryption.key')
  expect((await stat(join(world.stateDir, 'encryption.key'))).mode & 0o777).toBe(0o600)
})

test('tokens that the deployment brought are let in, at the first start and later', async () => {
  const folder = await tempFolder()
  const [adminFile, connectorFile] = [join(folder, 'admin'), join(folder, 'connector')]
  const [adminToken, connectorToken] = ['a'.repeat(40), 'c'.repeat(40)]
  await writeFile(adminFile, `${adminToken}\n`)
  const env = {
    APONO_FIRST_ADMIN_TOKEN_FILE: adminFile,
    APONO_FIRST_CONNECTOR_TOKEN_FILE: connectorFile,
    APONO_FIRST_CONNECTOR_ID: 'compose',
  }
  const world = await start({ env, adminToken })
  expect(world.controlPlane.firstAdminToken).toBeNull()
  expect(await world.admin.ok('GET', '/api/v1/users/me')).toMatchObject({ role: 'admin' })
  await writeFile(connectorFile, connectorToken)
  const again = await world.restart()
  const fake = new FakeConnector(new Caller(again.controlPlane.url, connectorToken), 'compose')
  await fake.register()
  await again.admin.ok('POST', '/api/admin/v4/integrations', integrationBody({ connector_id: 'compose' }))
  expect(await readFile(adminFile, 'utf8')).toContain(adminToken)
})

test('a token file with something too short is refused at start', async () => {
  const file = join(await tempFolder(), 'admin')
  await writeFile(file, 'secret')
  await expect(start({ env: { APONO_FIRST_ADMIN_TOKEN_FILE: file } })).rejects.toThrow(/at least 32/)
})

test('a token made in the process replaces the one before', async () => {
  const world = await start()
  const first = await world.controlPlane.createConnectorToken('local')
  const second = await world.controlPlane.createConnectorToken('local')
  const old = new FakeConnector(new Caller(world.controlPlane.url, first), 'local')
  expect((await old.caller.call('POST', '/connector/v1/register', old.registration())).status).toBe(401)
  await new FakeConnector(new Caller(world.controlPlane.url, second), 'local').register()
})

test('a failed start leaves nothing open', async () => {
  const world = await start()
  const port = new URL(world.controlPlane.url).port
  await expect(start({ env: { APONO_LISTEN: `127.0.0.1:${port}` } })).rejects.toThrow(/EADDRINUSE/)
})
