import { readFileSync } from 'node:fs'
import { Ajv2020 } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'
import { expect, test } from 'vitest'
import { type Caller, dig, stage } from './harness.ts'

const document = JSON.parse(readFileSync(new URL('vendor-schemas.json', import.meta.url), 'utf8'))
const ajv = new Ajv2020({ strict: false, allErrors: true })
addFormats.default(ajv)
ajv.addSchema(document, 'vendor')

const fits = (model: string, value: unknown): void => {
  const validate = ajv.getSchema(`vendor#/$defs/${model}`)
  if (!validate) throw new Error(`no schema ${model}`)
  validate(value)
  expect(validate.errors ?? [], `${model}: ${JSON.stringify(value)}`).toEqual([])
}

const fetchAndCheck = async (caller: Caller, path: string, model: string): Promise<Record<string, unknown>> => {
  const body = await caller.ok('GET', path)
  fits(model, body)
  return body
}

test("the admin's integrations, resources and connectors fit the vendor's models", async () => {
  const { admin, integrationId: id, fake } = await stage()
  const list = await fetchAndCheck(admin, '/api/admin/v4/integrations', 'PublicApiListResponseIntegrationPublicV4Model')
  expect(list['items']).toHaveLength(1)
  const one = await fetchAndCheck(admin, `/api/admin/v4/integrations/${id}`, 'IntegrationV4')
  expect(Object.values(Object(one['integration_config'])).every((value) => typeof value === 'string')).toBe(true)
  const { status: _status, ...writable } = one
  fits('IntegrationV4', await admin.ok('PUT', `/api/admin/v4/integrations/${id}`, writable))
  await fake.work()
  await fetchAndCheck(admin, `/api/v3/integrations/${id}/resources`, 'PaginatedResponseResourceV3Response')
  await fetchAndCheck(admin, `/api/v3/integrations/${id}/permissions`, 'PaginatedResponsePermissionV3Response')
  fits('MessageResponse', await admin.ok('POST', `/api/v2/integrations/${id}/refresh`))
  await fetchAndCheck(admin, '/api/admin/v3/connectors', 'PublicApiListResponseConnectorPublicV3Model')
  await fetchAndCheck(admin, '/api/admin/v3/connectors/c1', 'ConnectorV3')
  const refused = await admin.call('POST', '/api/admin/v4/integrations', {})
  fits('UpsertErrorModel', refused.body)
})

test('requests fit in every state that they go through', async () => {
  const scene = await stage()
  const path = '/api/user/v4/access-requests'
  const made = await scene.dana.ok('POST', path, {
    entitlements: [{ resource_id: 'web-1', permission_id: 'dbadmins' }],
    custom_fields: { ticket: 'OPS-1' },
  })
  const id = String(dig(made, 0, 'id'))
  const seen = new Set<string>()
  const check = async () => {
    seen.add(String((await fetchAndCheck(scene.dana, `${path}/${id}`, 'AccessRequestV4'))['status']))
    await fetchAndCheck(scene.dana, path, 'PublicApiListResponseAccessRequestV4PublicModel')
    await fetchAndCheck(
      scene.dana,
      `${path}/${id}/entitlements`,
      'PublicApiListResponseAccessRequestEntitlementPublicV4Model',
    )
  }
  fits('AccessRequestV4', dig(made, 0))
  await check()
  fits('AccessRequestV4', await scene.admin.ok('POST', `/api/v1/access-requests/${id}/approve`))
  await check()
  await scene.fake.work()
  await check()
  fits('PublicApiMessageResponse', await scene.dana.ok('POST', `${path}/${id}/revoke`))
  await check()
  await scene.fake.work()
  await check()
  expect([...seen]).toEqual(['Pending', 'Granting', 'Active', 'Revoking', 'Revoked'])
})

test('sessions, access details and what is available fit', async () => {
  const scene = await stage()
  await scene.grant({ publicKey: '' })
  await scene.fake.work()
  const path = '/api/user/v1/access-sessions'
  const list = await fetchAndCheck(scene.dana, path, 'PublicApiListResponseAccessSessionPublicV1Model')
  const id = dig(list, 'items', 0, 'id')
  await fetchAndCheck(scene.dana, `${path}/${id}`, 'AccessSessionV1')
  await fetchAndCheck(scene.dana, `${path}/${id}/access-details`, 'AccessSessionDetailsV1')
  await fetchAndCheck(scene.dana, `${path}/${id}/access-details`, 'AccessSessionDetailsV1')
  await fetchAndCheck(
    scene.dana,
    '/api/user/v1/available-access/entitlements',
    'PublicApiListResponseAvailableEntitlementPublicV1Model',
  )
})
