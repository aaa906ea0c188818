import { randomUUID } from 'node:crypto'
import { expect, test } from 'vitest'
import { dig, FakeConnector, integrationBody, presentResult, type Scene, stage } from './harness.ts'

const SECOND = 1000

const secondInstance = async (scene: Scene): Promise<FakeConnector> => {
  const peer = new FakeConnector(scene.fake.caller, scene.fake.connectorId)
  peer.instanceId = randomUUID()
  await peer.register()
  return peer
}

test('a job whose hand-out was lost is handed out again after 15 s, with a higher epoch', async () => {
  const scene = await stage()
  await scene.grant()
  const lost = await scene.fake.claimEnsure()
  expect(await scene.fake.claim()).toEqual([])
  scene.clock.advance(14 * SECOND)
  expect(await scene.fake.claim()).toEqual([])
  scene.clock.advance(1 * SECOND)
  const again = await scene.fake.claimEnsure()
  expect(again.jobId).toBe(lost.jobId)
  expect(again.epoch).toBeGreaterThan(lost.epoch)
  expect(again.attempt).toBe(2)
})

test('a job in flight is not handed out again while it is renewed', async () => {
  const scene = await stage()
  await scene.grant()
  const job = await scene.fake.claimEnsure()
  for (let round = 0; round < 5; round += 1) {
    scene.clock.advance(20 * SECOND)
    expect(await scene.fake.renew([job])).toEqual(['ok'])
    expect(await scene.fake.claim({ inFlight: [job] })).toEqual([])
  }
})

test("a lease that lapsed is another instance's, and what the first one says then is stale", async () => {
  const scene = await stage()
  const peer = await secondInstance(scene)
  await scene.grant()
  const job = await scene.fake.claimEnsure()
  scene.clock.advance(59 * SECOND)
  await peer.register()
  expect(await peer.claim()).toEqual([])
  scene.clock.advance(1 * SECOND)
  const again = await peer.claimEnsure()
  expect(again.epoch).toBeGreaterThan(job.epoch)
  expect(await scene.fake.succeed(job, presentResult(job))).toBe('stale')
  expect(await peer.succeed(again, presentResult(again))).toBe('accepted')
})

test('a lapsed lease is lost even if nobody took the job', async () => {
  const scene = await stage()
  await scene.grant()
  const job = await scene.fake.claimEnsure()
  scene.clock.advance(60 * SECOND)
  expect(await scene.fake.renew([job])).toEqual(['lost'])
})

test('a final outcome is accepted once and a duplicate from any instance after that', async () => {
  const scene = await stage()
  const peer = await secondInstance(scene)
  await scene.grant()
  const job = await scene.fake.claimEnsure()
  expect(await scene.fake.succeed(job, presentResult(job))).toBe('accepted')
  expect(await scene.fake.succeed(job, presentResult(job))).toBe('duplicate')
  expect(await peer.fail(job, 'connection_lost')).toBe('duplicate')
  expect(await scene.newestGrant()).toMatchObject({ status: 'Active' })
})

test('an outcome that was accepted for an older epoch stays a duplicate', async () => {
  const scene = await stage()
  await scene.grant()
  const job = await scene.fake.claimEnsure()
  expect(await scene.fake.fail(job, 'ssh_timeout', { retryable: true })).toBe('accepted')
  scene.clock.advance(5 * SECOND)
  const again = await scene.fake.claimEnsure()
  expect(await scene.fake.fail(job, 'ssh_timeout', { retryable: true })).toBe('duplicate')
  expect(await scene.fake.succeed(again, presentResult(again))).toBe('accepted')
})

test('no job is held longer than jobMaxMs, renewals included', async () => {
  const scene = await stage()
  await scene.grant()
  const job = await scene.fake.claimEnsure()
  const answers: string[] = []
  for (let round = 0; round < 15; round += 1) {
    scene.clock.advance(20 * SECOND)
    answers.push(...(await scene.fake.renew([job])))
  }
  expect(answers).toEqual([...Array<string>(14).fill('ok'), 'lost'])
})

test('a job whose grant was revoked meanwhile is cancelled, and its end comes when it is let go', async () => {
  const scene = await stage()
  const id = await scene.grant()
  const job = await scene.fake.claimEnsure()
  await scene.dana.ok('POST', `/api/user/v4/access-requests/${id}/revoke`)
  expect(await scene.fake.renew([job])).toEqual(['cancel'])
  expect(await scene.fake.claim({ inFlight: [job] })).toEqual([])
  await scene.fake.fail(job, 'cancelled', { retryable: true })
  const end = await scene.fake.claimEnsure()
  expect(end.grant).toMatchObject({ state: 'absent', generation: 2 })
})

test('one job per server at a time, over integrations, instances and spellings of the host', async () => {
  const scene = await stage()
  const other = integrationBody(
    { name: 'The same machine' },
    { servers: [{ name: 'alias', host: 'WEB.example' }], user_groups: '' },
  )
  const upper = integrationBody({ name: 'Once more' }, { servers: [{ name: 'alias', host: 'web.example' }] })
  await scene.admin.ok('POST', '/api/admin/v4/integrations', other)
  await scene.admin.ok('POST', '/api/admin/v4/integrations', upper)
  const peer = await secondInstance(scene)
  const first = await scene.fake.claimOne()
  expect(await peer.claim()).toEqual([])
  await scene.fake.fail(first, 'ssh_auth_failed')
  const second = await peer.claimOne()
  expect(second.server.id).not.toBe(first.server.id)
})

test('the end of a grant goes before the beginning of another on the same server', async () => {
  const scene = await stage()
  const over = await scene.grant()
  await scene.fake.work()
  await scene.grant({ permission: 'sudo' })
  await scene.admin.ok('POST', `/api/user/v4/access-requests/${over}/revoke`)
  const states = (await scene.fake.work()).map((job) => job.kind === 'ensure' && job.grant.state)
  expect(states).toEqual(['absent', 'present'])
})

test('an instance that was silent for three renewals is gone and its jobs are free', async () => {
  const scene = await stage()
  await scene.grant()
  await scene.fake.claimEnsure()
  scene.clock.advance(61 * SECOND)
  const body = { instanceId: scene.fake.instanceId, inFlight: [] }
  const answer = await scene.fake.caller.call('POST', '/connector/v1/renew', body)
  expect(answer).toMatchObject({ status: 409, body: { code: 'unknown_instance', status: 409 } })
  await scene.fake.register()
  expect(await scene.fake.claim()).toHaveLength(1)
})

test('deregistering releases what it names at once', async () => {
  const scene = await stage()
  const peer = await secondInstance(scene)
  await scene.grant()
  await scene.grant({ server: 'web-2' })
  const [job, kept] = await scene.fake.claim()
  if (!job || !kept) throw new Error('two jobs expected')
  expect(await scene.fake.deregister([job])).toBe(204)
  expect((await peer.claimEnsure()).jobId).toBe(job.jobId)
  scene.clock.advance(60 * SECOND)
  await peer.register()
  expect((await peer.claim()).map(({ jobId }) => jobId)).toContain(kept.jobId)
})

test('a gone instance loses its jobs even if their leases are longer', async () => {
  const scene = await stage({ knobs: { leaseTtlMs: 300_000, renewEveryMs: 10_000 } })
  await scene.grant()
  const job = await scene.fake.claimEnsure()
  scene.clock.advance(31 * SECOND)
  const peer = await secondInstance(scene)
  expect((await peer.claimEnsure()).jobId).toBe(job.jobId)
})

test('never more jobs than free slots, and none without one', async () => {
  const scene = await stage()
  await scene.grant({ server: 'web-1' })
  await scene.grant({ server: 'web-2' })
  expect(await scene.fake.claim({ freeSlots: 0 })).toEqual([])
  const jobs = await scene.fake.claim({ freeSlots: 1 })
  expect(jobs).toHaveLength(1)
  expect(await scene.fake.claim({ freeSlots: 1, inFlight: jobs })).toHaveLength(1)
})

test('the epoch rises at every hand-out, over all jobs', async () => {
  const scene = await stage()
  await scene.grant({ server: 'web-1' })
  await scene.grant({ server: 'web-2' })
  const epochs = (await scene.fake.claim()).map(({ epoch }) => epoch)
  expect(epochs).toHaveLength(2)
  expect(epochs).toEqual([...new Set(epochs)].sort((a, b) => a - b))
})

test('progress counts in its order only, and only for the newest hand-out', async () => {
  const scene = await stage()
  await scene.grant()
  const { jobId, epoch } = await scene.fake.claimEnsure()
  const progress = { jobId, epoch, outcome: 'progress', step: 'connecting' }
  expect(await scene.fake.report({ ...progress, seq: 2 })).toBe('accepted')
  expect(await scene.fake.report({ ...progress, seq: 1 })).toBe('duplicate')
  expect(await scene.fake.report({ ...progress, epoch: epoch + 1, seq: 3 })).toBe('stale')
})

test('a report that cannot be read counts as a failure of its job and does not hold up the others', async () => {
  const scene = await stage()
  await scene.grant()
  const { jobId, epoch } = await scene.fake.claimEnsure()
  expect(await scene.fake.report({ jobId, epoch, outcome: 'succeeded', result: { nonsense: true } })).toBe('accepted')
  expect(await scene.newestGrant()).toMatchObject({ status: 'Granting', last_failure: { code: 'invalid_report' } })
})

test('a result of another kind than the job is a failure', async () => {
  const scene = await stage()
  await scene.grant()
  const job = await scene.fake.claimEnsure()
  await scene.fake.succeed(job, presentResult(job, { certificate: null, validAfter: null }))
  expect(await scene.newestGrant()).toMatchObject({ status: 'Granting', last_failure: { code: 'invalid_result' } })
})

test('a clock that was set back does not make a lease, a wait or an instance last', async () => {
  const scene = await stage()
  await scene.grant({ seconds: 30 * 24 * 3600 })
  await scene.grant({ server: 'web-2', seconds: 30 * 24 * 3600 })
  const [held, failed] = await scene.fake.claim()
  if (!held || !failed) throw new Error('two jobs expected')
  await scene.fake.fail(failed, 'ssh_unreachable', { retryable: true })
  scene.clock.advance(-24 * 3600 * SECOND)
  const peer = await secondInstance(scene)
  expect(await peer.claim()).toEqual([])
  scene.clock.advance(60 * SECOND)
  expect(await peer.claim()).toMatchObject([{ jobId: held.jobId }])
  scene.clock.advance(3540 * SECOND)
  await peer.register()
  const ensure = (await peer.claim()).filter(({ kind }) => kind === 'ensure')
  expect(ensure.map(({ jobId }) => jobId)).toContain(failed.jobId)
  const { items } = await scene.admin.ok('GET', '/api/admin/v3/connectors')
  expect(dig(items, 0, 'id')).toBe('c1')
  expect(
    await scene.fake.caller.call('POST', '/connector/v1/renew', { instanceId: scene.fake.instanceId, inFlight: [] }),
  ).toMatchObject({ status: 409 })
})
