import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { GrantsResponse } from '../../src/protocol/calls.ts'
import type { EnsureJob } from '../../src/protocol/job.ts'
import { absentResult, dig, integrationBody, presentResult, resultOf, type Scene, stage } from './harness.ts'

const SECOND = 1000

const active = async (scene: Scene, options: { seconds?: number } = {}): Promise<{ id: string; job: EnsureJob }> => {
  const id = await scene.grant(options)
  const job = await scene.fake.claimEnsure()
  await scene.fake.succeed(job, presentResult(job))
  return { id, job }
}

const revoke = (scene: Scene, id: string) => scene.dana.ok('POST', `/api/user/v4/access-requests/${id}/revoke`)

test('a grant that was never handed out simply ends', async () => {
  const scene = await stage()
  const id = await scene.grant()
  await revoke(scene, id)
  expect(await scene.status(id)).toBe('Revoked')
  expect(await scene.fake.claim()).toEqual([])
  expect((await scene.fake.grants()).grants).toEqual([])
})

test('a grant that was handed out and never reported is ended on the server', async () => {
  const scene = await stage()
  const id = await scene.grant({ seconds: 600 })
  await scene.fake.claimEnsure()
  await revoke(scene, id)
  scene.clock.advance(61 * SECOND)
  await scene.fake.register()
  const end = await scene.fake.claimEnsure()
  expect(end.grant.state).toBe('absent')
})

/** The one `ensure` job that is due; the hourly inspections that come with it are answered. */
const dueEnsure = async (scene: Scene): Promise<EnsureJob | null> => {
  await scene.fake.register()
  let ensure: EnsureJob | null = null
  for (
    let jobs = await scene.fake.claim();
    jobs.length > 0;
    jobs = await scene.fake.claim({ inFlight: ensure ? [ensure] : [] })
  ) {
    for (const job of jobs) {
      if (job.kind === 'ensure') ensure = job
      else await scene.fake.succeed(job, resultOf(job))
    }
  }
  return ensure
}

test('an end is tried for ever, whatever the failure says, until it is confirmed', async () => {
  const scene = await stage()
  const { id } = await active(scene)
  await revoke(scene, id)
  let end = await scene.fake.claimEnsure()
  for (const seconds of [15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]) {
    await scene.fake.fail(end, 'ssh_auth_failed')
    expect(await scene.newestGrant()).toMatchObject({
      status: 'Revoking',
      revocation_unconfirmed: true,
      last_failure: { code: 'ssh_auth_failed', hint: 'mend ssh_auth_failed' },
    })
    scene.clock.advance(seconds * SECOND - 1)
    expect(await dueEnsure(scene)).toBeNull()
    scene.clock.advance(1)
    const next = await dueEnsure(scene)
    expect(next?.epoch).toBeGreaterThan(end.epoch)
    end = next ?? end
  }
  await scene.fake.succeed(end, absentResult(end, { residue: [{ kind: 'crontab', detail: 'dana', removed: true }] }))
  expect(await scene.newestGrant()).toMatchObject({
    status: 'Revoked',
    revocation_unconfirmed: false,
    closed: { how: 'confirmed' },
    result: { account: 'locked', residue: [{ kind: 'crontab' }] },
  })
})

test('an admin may give up on an end, with a reason that is kept', async () => {
  const scene = await stage()
  const { id, job } = await active(scene)
  const path = `/api/v1/grants/${job.grant.id}/abandon`
  expect(await scene.admin.call('POST', path, { reason: 'too early' })).toMatchObject({ status: 409 })
  await revoke(scene, id)
  expect(await scene.admin.call('POST', path, {})).toMatchObject({
    status: 400,
    body: { errors: [{ path: 'reason', message: 'required' }] },
  })
  expect(await scene.dana.call('POST', path, { reason: 'mine' })).toMatchObject({ status: 403 })
  await scene.admin.ok('POST', path, { reason: 'the machine burnt down' })
  expect(await scene.newestGrant()).toMatchObject({ closed: { how: 'abandoned' }, revocation_unconfirmed: true })
  expect(await scene.fake.claim()).toEqual([])
  const audit = await scene.admin.ok('GET', '/api/v1/audit?limit=1')
  expect(dig(audit, 'items', 0)).toMatchObject({
    action: 'grant.abandoned',
    subject: job.grant.id,
    detail: { reason: 'the machine burnt down' },
  })
})

test('the end runs on the machine that the grant was made on, whatever became of the integration', async () => {
  const scene = await stage()
  await active(scene)
  const moved = integrationBody(
    { name: 'Renamed' },
    { servers: [{ name: 'web-1', host: '10.9.9.9' }], user_groups: '' },
  )
  await scene.admin.ok('PUT', `/api/admin/v4/integrations/${scene.integrationId}`, moved)
  await scene.admin.ok('DELETE', `/api/admin/v4/integrations/${scene.integrationId}`)
  const end = await scene.fake.claimEnsure()
  expect(end).toMatchObject({
    integration: { name: 'Production servers', userGroups: ['dbadmins', 'sudo'] },
    server: { host: '10.0.0.1' },
    grant: { state: 'absent', hostId: 'h_web1' },
  })
})

test('a server that was taken out of an integration loses its grants', async () => {
  const scene = await stage()
  const { id } = await active(scene)
  const without = integrationBody({}, { servers: [{ name: 'web-2', host: '10.0.0.2' }] })
  await scene.admin.ok('PUT', `/api/admin/v4/integrations/${scene.integrationId}`, without)
  expect(await scene.status(id)).toBe('Revoking')
})

test('an extension raises the generation and issues anew; the later end counts', async () => {
  const scene = await stage()
  const { id, job } = await active(scene, { seconds: 60 })
  await scene.admin.ok('POST', `/api/v1/access-requests/${id}/extend`, { duration_in_sec: 60 })
  expect(await scene.status(id)).toBe('Active')
  const extension = await scene.fake.claimEnsure()
  expect(extension.grant).toMatchObject({ id: job.grant.id, generation: 2, state: 'present', issue: true })
  expect(Date.parse(extension.grant.notAfter) - Date.parse(job.grant.notAfter)).toBe(60 * SECOND)
  await scene.fake.succeed(extension, presentResult(extension))
  scene.clock.advance(60 * SECOND)
  await scene.fake.register()
  expect(await scene.fake.claim()).toEqual([])
  scene.clock.advance(60 * SECOND)
  await scene.fake.register()
  const end = await scene.fake.claimEnsure()
  expect(end.grant).toMatchObject({ generation: 3, state: 'absent', notAfter: extension.grant.notAfter })
})

test('an extension that fails leaves what was there until its own end', async () => {
  const scene = await stage()
  const { id, job } = await active(scene, { seconds: 60 })
  await scene.admin.ok('POST', `/api/v1/access-requests/${id}/extend`, { duration_in_sec: 600 })
  await scene.fake.fail(await scene.fake.claimEnsure(), 'trust_not_effective')
  expect(await scene.newestGrant()).toMatchObject({ status: 'Active', not_after: job.grant.notAfter })
  scene.clock.advance(60 * SECOND)
  const end = await scene.fake.claimEnsure()
  expect(end.grant.state).toBe('absent')
  expect(Date.parse(end.grant.notAfter)).toBe(Date.parse(job.grant.notAfter) + 600 * SECOND)
})

test('an extension never makes a grant longer than 30 days, and ended grants stay ended', async () => {
  const scene = await stage()
  const { id } = await active(scene)
  const extend = (seconds: number) =>
    scene.admin.call('POST', `/api/v1/access-requests/${id}/extend`, { duration_in_sec: seconds })
  expect(await extend(30 * 24 * 3600)).toMatchObject({ status: 400, body: { errors: [{ path: 'duration_in_sec' }] } })
  await revoke(scene, id)
  expect(await extend(60)).toMatchObject({ status: 409 })
})

test('a failed grant is cleaned up on the server and shown as failed', async () => {
  const scene = await stage()
  const id = await scene.grant()
  await scene.fake.fail(await scene.fake.claimEnsure(), 'group_missing')
  expect(await scene.status(id)).toBe('Failed')
  const end = await scene.fake.claimEnsure()
  expect(end.grant).toMatchObject({ state: 'absent', generation: 2 })
  await scene.fake.succeed(end, absentResult(end))
  expect(await scene.status(id)).toBe('Failed')
  expect(await scene.newestGrant()).toMatchObject({ closed: { how: 'confirmed' } })
})

test('a retryable failure is tried again with back-off, and not for ever', async () => {
  const scene = await stage()
  const id = await scene.grant({ seconds: 7200 })
  for (const seconds of [5, 10, 20, 40, 80, 160, 300, 300, 300]) {
    await scene.fake.fail(await scene.fake.claimEnsure(), 'ssh_unreachable', { retryable: true })
    expect(await scene.status(id)).toBe('Granting')
    scene.clock.advance(seconds * SECOND - 1)
    await scene.fake.register()
    expect(await scene.fake.claim()).toEqual([])
    scene.clock.advance(1)
  }
  await scene.fake.fail(await scene.fake.claimEnsure(), 'ssh_unreachable', { retryable: true })
  expect(await scene.status(id)).toBe('Failed')
})

test('a grant is not handed out after its end', async () => {
  const scene = await stage()
  const id = await scene.grant({ seconds: 10 })
  scene.clock.advance(10 * SECOND)
  expect(await scene.fake.claim()).toEqual([])
  expect(await scene.status(id)).toBe('Expired')
})

test('a ledger that remembers more than we do: above its generation, after the back-off', async () => {
  const scene = await stage()
  await scene.grant()
  const job = await scene.fake.claimEnsure()
  await scene.fake.fail(job, 'superseded', { recorded: { generation: 7, epoch: job.epoch + 500 } })
  expect(await scene.fake.claim()).toEqual([])
  scene.clock.advance(5 * SECOND)
  const again = await scene.fake.claimEnsure()
  expect(again.grant).toMatchObject({ generation: 8, state: 'present', issue: true })
})

test('no ledger moves the epochs of the others, whatever it says', async () => {
  const scene = await stage()
  const id = await scene.grant({ seconds: 7200 })
  const first = await scene.fake.claimEnsure()
  let job: EnsureJob | null = first
  for (let round = 0; job?.grant.state === 'present'; round += 1) {
    expect(round).toBeLessThan(10)
    const recorded = { generation: job.grant.generation, epoch: Math.min(job.epoch + 1_000_000, 2 ** 31 - 1) }
    await scene.fake.fail(job, 'superseded', { recorded })
    scene.clock.advance(300 * SECOND)
    await scene.fake.register()
    job = await dueEnsure(scene)
    expect(job?.epoch).toBeLessThan(first.epoch + 100)
  }
  expect(await scene.status(id)).toBe('Failed')
})

test('a ledger far ahead is an ordinary failure, for ends too, and no end of another grant waits for it', async () => {
  const scene = await stage()
  const id = await scene.grant({ seconds: 60 })
  const other = await scene.grant({ server: 'web-2', seconds: 60 })
  const jobs = (await scene.fake.claim()).filter((job) => job.kind === 'ensure')
  for (const job of jobs) {
    if (job.server.name === 'web-2') await scene.fake.succeed(job, presentResult(job))
    else await scene.fake.fail(job, 'superseded', { recorded: { generation: 2 ** 31 - 2, epoch: 1 } })
  }
  scene.clock.advance(60 * SECOND)
  await scene.fake.register()
  for (const end of await scene.fake.claim()) {
    if (end.kind !== 'ensure') throw new Error('ends only')
    expect(end.grant).toMatchObject({ state: 'absent', generation: 2 })
    if (end.server.name === 'web-2') await scene.fake.succeed(end, absentResult(end))
    else await scene.fake.fail(end, 'superseded', { recorded: { generation: 2 ** 31 - 2, epoch: 1 } })
  }
  expect(await scene.status(other)).toBe('Expired')
  expect(await scene.fake.claim()).toEqual([])
  scene.clock.advance(15 * SECOND)
  expect((await scene.fake.claimEnsure()).grant.generation).toBe(2)
  expect(await scene.status(id)).toBe('Failed')
})

const editGrant = (scene: Scene, id: string, sql: string): void => {
  const db = new DatabaseSync(join(scene.stateDir, 'control-plane.db'), { timeout: 5000 })
  db.prepare(`UPDATE grants SET ${sql} WHERE id = ?`).run(id)
  db.close()
}

test('a grant that has used up its generations still ends', async () => {
  const scene = await stage()
  const { id, job } = await active(scene, { seconds: 60 })
  editGrant(scene, job.grant.id, `doc = json_set(doc, '$.generation', ${2 ** 31 - 1})`)
  scene.clock.advance(60 * SECOND)
  await scene.fake.register()
  expect((await scene.fake.claimEnsure()).grant.state).toBe('absent')
  expect(await scene.status(id)).toBe('Revoking')
})

test('a grant that cannot be ended keeps no other from its end', async () => {
  const scene = await stage()
  const { job } = await active(scene, { seconds: 60 })
  const other = await scene.grant({ server: 'web-2', seconds: 60 })
  await scene.fake.work()
  editGrant(scene, job.grant.id, `doc = '{'`)
  scene.clock.advance(60 * SECOND)
  await scene.fake.register()
  const end = await scene.fake.claimEnsure()
  expect(end).toMatchObject({ server: { name: 'web-2' }, grant: { state: 'absent' } })
  await scene.fake.succeed(end, absentResult(end))
  expect(await scene.status(other)).toBe('Expired')
})

test('superseded by our own newer work is no news', async () => {
  const scene = await stage()
  const { id } = await active(scene)
  await scene.admin.ok('POST', `/api/v1/access-requests/${id}/extend`, { duration_in_sec: 60 })
  const extension = await scene.fake.claimEnsure()
  await revoke(scene, id)
  await scene.fake.fail(extension, 'superseded', { recorded: { generation: 3, epoch: extension.epoch + 1 } })
  expect((await scene.fake.claimEnsure()).grant).toMatchObject({ generation: 3, state: 'absent' })
})

test('a lost ledger: the generation is raised and a certificate issued again', async () => {
  const scene = await stage()
  const { id } = await active(scene)
  await scene.admin.ok('POST', `/api/v1/access-requests/${id}/extend`, { duration_in_sec: 60 })
  await scene.fake.fail(await scene.fake.claimEnsure(), 'ledger_lost', { retryable: true })
  const again = await scene.fake.claimEnsure()
  expect(again.grant).toMatchObject({ generation: 3, state: 'present', issue: true })
})

test("a connector's own timer ends a grant here too; the absent job is still the proof", async () => {
  const scene = await stage()
  const { job } = await active(scene)
  const expired = { grantId: job.grant.id, generation: 1, outcome: 'expired', result: absentResult(job) }
  expect(await scene.fake.report(expired)).toBe('accepted')
  expect(await scene.fake.report(expired)).toBe('duplicate')
  expect(await scene.fake.report({ ...expired, generation: 9 })).toBe('stale')
  expect(await scene.fake.report({ ...expired, grantId: 'grt_unknown' })).toBe('stale')
  expect(await scene.newestGrant()).toMatchObject({ status: 'Revoking', end: { reason: 'expired' } })
  const end = await scene.fake.claimEnsure()
  await scene.fake.succeed(end, absentResult(end, { changed: false }))
  expect(await scene.newestGrant()).toMatchObject({ status: 'Expired', closed: { how: 'confirmed' } })
})

test('an expiry of a generation that was extended meanwhile does not end the grant', async () => {
  const scene = await stage()
  const { id, job } = await active(scene, { seconds: 60 })
  await scene.admin.ok('POST', `/api/v1/access-requests/${id}/extend`, { duration_in_sec: 600 })
  const expired = { grantId: job.grant.id, generation: 1, outcome: 'expired', result: absentResult(job) }
  expect(await scene.fake.report(expired)).toBe('accepted')
  expect((await scene.fake.claimEnsure()).grant).toMatchObject({ generation: 2, state: 'present' })
})

test('the list of grants has those to be present and those whose end is not confirmed', async () => {
  const scene = await stage()
  const { id, job } = await active(scene)
  const waiting = await scene.grant({ server: 'web-2' })
  expect((await scene.fake.grants()).grants.map(({ grant }) => grant.state)).toEqual(['present', 'present'])
  await revoke(scene, id)
  await revoke(scene, waiting)
  const { grants, next } = await scene.fake.grants()
  expect(next).toBeNull()
  expect(grants).toMatchObject([
    { grant: { id: job.grant.id, state: 'absent', generation: 2 }, server: { name: 'web-1' } },
  ])
  await scene.fake.work()
  expect((await scene.fake.grants()).grants).toEqual([])
})

test('a long list of grants comes in pages that leave none out', async () => {
  const scene = await stage()
  const many = Array.from({ length: 520 }, (_, index) => ({
    name: `s${index}`,
    host: `10.1.${index >> 8}.${index & 255}`,
  }))
  await scene.admin.ok('POST', '/api/admin/v4/integrations', integrationBody({ name: 'Many' }, { servers: many }))
  const answer = await scene.dana.ok('POST', '/api/user/v4/access-requests', {
    entitlements: many.map(({ name }) => ({ resource_id: `Many/${name}`, permission_id: 'Default' })),
    custom_fields: {},
  })
  await scene.admin.ok('POST', `/api/v1/access-requests/${dig(answer, 0, 'id')}/approve`)
  const seen = new Set<string>()
  let after = ''
  do {
    const page = await scene.fake.caller.ok('GET', `/connector/v1/grants${after && `?after=${after}`}`)
    for (const { grant } of GrantsResponse.parse(page).grants) seen.add(grant.id)
    after = String(page['next'] ?? '')
  } while (after !== '')
  expect(seen.size).toBe(520)
})

test('a connector cannot make a grant last by the end that it reports', async () => {
  const scene = await stage()
  const id = await scene.grant({ seconds: 60 })
  const first = await scene.fake.claimEnsure()
  await scene.admin.ok('POST', `/api/v1/access-requests/${id}/extend`, { duration_in_sec: 600 })
  await scene.fake.succeed(first, presentResult(first, { validBefore: '9999-01-01T00:00:00Z' }))
  await scene.fake.fail(await scene.fake.claimEnsure(), 'group_missing')
  expect(await scene.newestGrant()).toMatchObject({ status: 'Active', not_after: first.grant.notAfter })
  const access = await scene.dana.ok('GET', '/api/user/v1/access-sessions')
  const path = `/api/user/v1/access-sessions/${dig(access, 'items', 0, 'id')}/access-details`
  expect(dig(await scene.dana.ok('GET', path), 'parameters', 'valid_before')).toBe(first.grant.notAfter)
  scene.clock.advance(60 * SECOND)
  expect((await scene.fake.claimEnsure()).grant.state).toBe('absent')
})

test('a grant that could not be given says why, also when its end failed on the way and then was confirmed', async () => {
  const scene = await stage()
  const id = await scene.grant({ seconds: 60 })
  await scene.fake.fail(await scene.fake.claimEnsure(), 'group_missing')
  const end = await scene.fake.claimEnsure()
  expect(end.grant.state).toBe('absent')
  await scene.fake.fail(end, 'ssh_unreachable')
  expect(await scene.newestGrant()).toMatchObject({ last_failure: { code: 'ssh_unreachable' } })
  scene.clock.advance(15 * SECOND)
  const again = await scene.fake.claimEnsure()
  await scene.fake.succeed(again, absentResult(again))
  expect(await scene.status(id)).toBe('Failed')
  expect(await scene.newestGrant()).toMatchObject({
    last_failure: { code: 'group_missing', hint: 'mend group_missing' },
  })
})

test('an end that leaves processes is not confirmed', async () => {
  const scene = await stage()
  const { id } = await active(scene)
  await revoke(scene, id)
  const end = await scene.fake.claimEnsure()
  await scene.fake.succeed(end, absentResult(end, { processesLeft: 7 }))
  expect(await scene.newestGrant()).toMatchObject({ status: 'Revoking', last_failure: { code: 'revoke_incomplete' } })
  scene.clock.advance(15 * SECOND)
  const again = await scene.fake.claimEnsure()
  await scene.fake.succeed(again, absentResult(again))
  expect(await scene.status(id)).toBe('Revoked')
})
