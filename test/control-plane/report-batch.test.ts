import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import type { Job } from '../../src/protocol/job.ts'
import { absentResult, dig, resultOf, type Scene, stage } from './harness.ts'

const AT = '2026-11-22T15:00:00.000Z'

const send = (scene: Scene, reports: readonly unknown[]) =>
  scene.fake.caller.call('POST', '/connector/v1/report', { instanceId: scene.fake.instanceId, reports })

const success = (job: Job) => ({
  jobId: job.jobId,
  epoch: job.epoch,
  at: AT,
  outcome: 'succeeded',
  result: resultOf(job),
})

/** Two grants in a connector's hands; the first one's record is broken, so that applying anything to it throws. */
const withBrokenGrant = async (): Promise<{ scene: Scene; broken: Job; sound: Job; soundId: string }> => {
  const scene = await stage()
  await scene.grant()
  const soundId = await scene.grant({ server: 'web-2' })
  const jobs = await scene.fake.claim()
  const [broken, sound] = ['web-1', 'web-2'].map((name) => jobs.find(({ server }) => server.name === name))
  if (broken?.kind !== 'ensure' || !sound) throw new Error('two jobs expected')
  const db = new DatabaseSync(join(scene.stateDir, 'control-plane.db'), { timeout: 5000 })
  db.prepare("UPDATE grants SET doc = '{' WHERE id = ?").run(broken.grant.id)
  db.close()
  return { scene, broken, sound, soundId }
}

test('a report that cannot be applied fails alone', async () => {
  const { scene, broken, sound, soundId } = await withBrokenGrant()
  const answer = await send(scene, [success(broken), success(sound)])
  expect(answer).toMatchObject({ status: 200, body: { results: [{ status: 'stale' }, { status: 'accepted' }] } })
  expect(await scene.status(soundId)).toBe('Active')
})

test('a job that cannot be handed out keeps no other from it', async () => {
  const { scene, broken, sound } = await withBrokenGrant()
  expect(await scene.fake.deregister([broken, sound])).toBe(204)
  await scene.fake.register()
  expect(await scene.fake.claim()).toMatchObject([{ jobId: sound.jobId }])
})

test('a report that cannot be read, with a grant or with nothing to know it by, holds up no other', async () => {
  const scene = await stage()
  const id = await scene.grant()
  const job = await scene.fake.claimEnsure()
  const expired = { grantId: 'grt_1', generation: 1, at: AT, outcome: 'expired', result: {} }
  const answer = await send(scene, [expired, 'nonsense', { outcome: 'succeeded' }, success(job)])
  expect(answer.status).toBe(200)
  expect(dig(answer.body, 'results')).toEqual([
    { grantId: 'grt_1', generation: 1, status: 'stale' },
    { jobId: job.jobId, epoch: job.epoch, status: 'accepted' },
  ])
  expect(await scene.status(id)).toBe('Active')
  const late = { grantId: job.grant.id, generation: 1, at: AT, outcome: 'expired', result: absentResult(job) }
  expect((await send(scene, [late])).status).toBe(200)
})
