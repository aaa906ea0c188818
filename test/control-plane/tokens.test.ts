import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { Caller, dig, FakeConnector, integrationBody, stage, start, tempFolder } from './harness.ts'

test("a token file's new token replaces its former one, and its connector's place", async () => {
  const folder = await tempFolder()
  const [adminFile, connectorFile] = [join(folder, 'admin'), join(folder, 'connector')]
  await writeFile(adminFile, 'a'.repeat(40))
  await writeFile(connectorFile, 'c'.repeat(40))
  const env = { APONO_FIRST_ADMIN_TOKEN_FILE: adminFile, APONO_FIRST_CONNECTOR_TOKEN_FILE: connectorFile }
  const world = await start({ env, adminToken: 'a'.repeat(40) })
  await new FakeConnector(new Caller(world.controlPlane.url, 'c'.repeat(40)), 'mine').register()
  await world.admin.ok('POST', '/api/admin/v4/integrations', integrationBody({ connector_id: 'mine' }))

  await writeFile(adminFile, 'b'.repeat(40))
  await writeFile(connectorFile, 'd'.repeat(40))
  const again = await world.restart()
  const me = async (token: string) =>
    (await new Caller(again.controlPlane.url, token).call('GET', '/api/v1/users/me')).status
  expect([await me('a'.repeat(40)), await me('b'.repeat(40))]).toEqual([401, 200])
  const old = new FakeConnector(new Caller(again.controlPlane.url, 'c'.repeat(40)), 'mine')
  expect((await old.caller.call('POST', '/connector/v1/register', old.registration())).status).toBe(401)
  await new FakeConnector(new Caller(again.controlPlane.url, 'd'.repeat(40)), 'mine').register()
})

test('all tokens of a person, or of a connector, can be taken away', async () => {
  const scene = await stage()
  const path = `/api/v1/users/${scene.dana.userId}/tokens`
  expect(await scene.dana.call('DELETE', path)).toMatchObject({ status: 403 })
  expect(await scene.admin.call('DELETE', '/api/v1/users/usr_none/tokens')).toMatchObject({ status: 404 })
  expect(await scene.admin.call('DELETE', path)).toMatchObject({ status: 204 })
  expect(await scene.dana.call('GET', '/api/v1/users/me')).toMatchObject({ status: 401 })
  expect(dig(await scene.admin.ok('GET', '/api/v1/audit?limit=1'), 'items', 0)).toMatchObject({
    action: 'token.deleted',
    subject: scene.dana.userId,
  })
  expect(await scene.admin.call('DELETE', '/api/v1/connector-tokens/c1')).toMatchObject({ status: 204 })
  expect(await scene.admin.call('DELETE', '/api/v1/connector-tokens/none')).toMatchObject({ status: 404 })
  const body = { instanceId: scene.fake.instanceId, inFlight: [] }
  expect(await scene.fake.caller.call('POST', '/connector/v1/renew', body)).toMatchObject({ status: 401 })
})

test('a token for no connector in particular takes no id that others rely on', async () => {
  const scene = await stage()
  const unbound = async (id: string) => {
    const { token } = await scene.admin.ok('POST', '/api/v1/connector-tokens', {})
    const fake = new FakeConnector(new Caller(scene.controlPlane.url, String(token)), id)
    return fake.caller.call('POST', '/connector/v1/register', fake.registration())
  }
  expect(await unbound('c1')).toMatchObject({ status: 403, body: { code: 'connector_not_allowed' } })
  await scene.admin.ok('POST', '/api/v1/connector-tokens', { connector_id: 'c2' })
  expect(await unbound('c2')).toMatchObject({ status: 403 })
  // Its tokens are gone, but its integration is not.
  expect((await scene.admin.call('DELETE', '/api/v1/connector-tokens/c1')).status).toBe(204)
  expect(await unbound('c1')).toMatchObject({ status: 403 })
  expect(await unbound('c3')).toMatchObject({ status: 200 })
})

test("an admin's token of before it was noted who was shown one stays", async () => {
  const world = await start()
  const db = new DatabaseSync(join(world.stateDir, 'control-plane.db'), { timeout: 5000 })
  db.exec("DELETE FROM meta WHERE name = 'firstAdminToken'")
  db.close()
  const again = await world.restart()
  expect(again.controlPlane.firstAdminToken).toBeNull()
  await again.admin.ok('GET', '/api/v1/users/me')
})
