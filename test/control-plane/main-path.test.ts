import { expect, test } from 'vitest'
import { absentResult, hostIdOf, presentResult, stage } from './harness.ts'

test('a person asks, an admin approves, the connector grants, time ends it', async () => {
  const scene = await stage()
  const integration = await scene.admin.ok('GET', `/api/admin/v4/integrations/${scene.integrationId}`)
  expect(integration).toMatchObject({ status: 'Active', details: '2 resources loaded' })

  const id = await scene.grant({ seconds: 30 })
  expect(await scene.status(id)).toBe('Granting')
  const job = await scene.fake.claimEnsure()
  expect(job.grant).toMatchObject({
    state: 'present',
    generation: 1,
    issue: true,
    login: 'dana',
    person: 'dana@example.com',
    groups: ['dbadmins'],
    hostId: hostIdOf(job),
  })
  expect(await scene.fake.succeed(job, presentResult(job))).toBe('accepted')
  expect(await scene.status(id)).toBe('Active')

  const sessions = await scene.dana.ok('GET', '/api/user/v1/access-sessions')
  expect(sessions['items']).toHaveLength(1)

  scene.clock.advance(30_000)
  const end = await scene.fake.claimEnsure()
  expect(end.grant).toMatchObject({ id: job.grant.id, state: 'absent', generation: 2, issue: false })
  expect(await scene.status(id)).toBe('Revoking')
  await scene.fake.succeed(end, absentResult(end))
  expect(await scene.status(id)).toBe('Expired')
  expect(await scene.fake.claim()).toEqual([])
})

test('the audit says whose grant can become root on the server', async () => {
  const scene = await stage()
  await scene.grant({ permission: 'sudo' })
  const { items } = await scene.admin.ok('GET', '/api/v1/audit?limit=5')
  expect(items).toContainEqual(
    expect.objectContaining({
      action: 'grant.created',
      detail: expect.objectContaining({ groups: ['sudo'], rootEquivalent: ['sudo'] }),
    }),
  )
})
