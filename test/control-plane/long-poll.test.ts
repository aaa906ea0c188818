import { setImmediate } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { presentResult, stage } from './harness.ts'

test('a waiting claim is woken by new work', async () => {
  const scene = await stage()
  const waiting = scene.fake.claim({ waitMs: 20_000 })
  await scene.clock.sleeperFor(20_000)
  await scene.grant()
  expect(await waiting).toHaveLength(1)
})

test('a waiting claim is woken by the end of a grant, at its second', async () => {
  const scene = await stage()
  await scene.grant({ seconds: 15 })
  await scene.fake.work()
  const waiting = scene.fake.claim({ waitMs: 20_000 })
  await scene.clock.sleeperFor(20_000)
  await scene.clock.sleeperFor(15_000)
  scene.clock.advance(15_000)
  const [job] = await waiting
  expect(job).toMatchObject({ kind: 'ensure', grant: { state: 'absent' } })
})

test('a waiting claim ends with 204 after its time, and never waits longer than the knob says', async () => {
  const scene = await stage()
  const waiting = scene.fake.claim({ waitMs: 600_000 })
  await scene.clock.sleeperFor(25_000)
  scene.clock.advance(25_000)
  expect(await waiting).toEqual([])
})

test('a claim whose client went away takes no job with it', async () => {
  const scene = await stage()
  const gone = new AbortController()
  const body = { instanceId: scene.fake.instanceId, freeSlots: 1, waitMs: 25_000, inFlight: [] }
  const waiting = scene.fake.caller.call('POST', '/connector/v1/claim', body, gone.signal)
  await scene.clock.sleeperFor(25_000)
  gone.abort()
  await expect(waiting).rejects.toThrow()
  // The server notices when its socket closes; the sleeper of the poll is then gone.
  while (scene.clock.sleeping(25_000)) await setImmediate()
  await scene.grant()
  const job = await scene.fake.claimEnsure()
  expect(job.attempt).toBe(1)
})

test('stopping answers waiting claims with 204 and what is asked meanwhile is kept', async () => {
  const scene = await stage()
  const waiting = scene.fake.claim({ waitMs: 20_000 })
  await scene.clock.sleeperFor(20_000)
  await scene.controlPlane.stop()
  expect(await waiting).toEqual([])
  await scene.controlPlane.stop()
})

test('a server that was freed wakes whoever waits for it', async () => {
  const scene = await stage()
  await scene.grant()
  await scene.grant({ permission: 'sudo' })
  const job = await scene.fake.claimEnsure()
  const waiting = scene.fake.claim({ waitMs: 20_000, inFlight: [job] })
  await scene.clock.sleeperFor(20_000)
  await scene.fake.succeed(job, presentResult(job))
  expect(await waiting).toHaveLength(1)
})
