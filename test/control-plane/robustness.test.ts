import fc from 'fast-check'
import { expect, test } from 'vitest'
import { integrationBody, stage } from './harness.ts'

const PUBLIC = [
  ['POST', '/api/admin/v4/integrations'],
  ['PUT', '/api/admin/v4/integrations/ID'],
  ['PUT', '/api/admin/v3/connectors/c1'],
  ['POST', '/api/user/v4/access-requests'],
  ['POST', '/api/v1/users'],
  ['POST', '/api/v1/connector-tokens'],
  ['POST', '/api/v1/access-requests/ID/extend'],
  ['POST', '/api/v1/grants/ID/abandon'],
] as const
const CONNECTOR = ['register', 'claim', 'renew', 'report', 'deregister'] as const

/** Bodies of the right shape with something else in one place get further than random ones. */
const nearly = (body: object): fc.Arbitrary<unknown> =>
  fc.tuple(fc.constantFrom(...Object.keys(body)), fc.jsonValue()).map(([key, value]) => ({ ...body, [key]: value }))

test('whatever is sent, it is never our defect', async () => {
  const scene = await stage()
  const integration = integrationBody({ name: 'Another' })
  const request = {
    entitlements: [{ resource_id: 'web-1', permission_id: 'Default' }],
    duration_in_sec: 60,
    custom_fields: {},
  }
  const report = {
    instanceId: scene.fake.instanceId,
    reports: [{ jobId: 'x', epoch: 1, outcome: 'succeeded', at: '2026-11-22T15:00:00.000Z', result: {} }],
  }
  const bodies = fc.oneof(
    fc.jsonValue(),
    nearly(integration),
    nearly(integration.integration_config).map((integration_config) => ({ ...integration, integration_config })),
    nearly({ name: 'a', host: 'b', port: 22, user: 'c', tags: {} }).map((server) =>
      integrationBody({ name: 'Another' }, { servers: JSON.stringify([server]) }),
    ),
    nearly(request),
    nearly(report),
    nearly(scene.fake.registration()),
    nearly({ instanceId: scene.fake.instanceId, freeSlots: 1, waitMs: 0, inFlight: [], release: [] }),
  )
  await fc.assert(
    fc.asyncProperty(bodies, async (body) => {
      for (const [method, path] of PUBLIC) {
        const answer = await scene.admin.call(method, path.replace('ID', scene.integrationId), body)
        expect(answer.status, `${method} ${path} ${JSON.stringify(answer.body)}`).toBeLessThan(500)
      }
      for (const call of CONNECTOR) {
        const zeroWait = typeof body === 'object' && body !== null && 'waitMs' in body ? { ...body, waitMs: 0 } : body
        const answer = await scene.fake.caller.call('POST', `/connector/v1/${call}`, zeroWait)
        expect(answer.status, `${call} ${JSON.stringify(answer.body)}`).toBeLessThan(500)
      }
    }),
    { numRuns: 60 },
  )
})
