import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test, vi } from 'vitest'
import { openSqliteStore } from '../../src/control-plane/store/sqlite.ts'
import { integrationBody, SERVERS, stage, tempFolder } from './harness.ts'

const HOUR = 3_600_000

test('what runs before every claim uses its index', async () => {
  const path = join(await tempFolder(), 'store.db')
  const prepare = vi.spyOn(DatabaseSync.prototype, 'prepare')
  const store = openSqliteStore(path)
  await store.write(async (tx) => {
    await tx.grants.overdue(1)
    await tx.jobs.lapsed(1)
    await tx.jobs.leasedAfter(1)
    await tx.jobs.dueAfter(1)
    await tx.jobs.leasedBy('i')
    await tx.jobs.forgetInspections(1, 1)
    await tx.jobs.claimable({ connectorId: 'c', now: 1, limit: 1 })
    await tx.servers.dueForInspection(1)
    await tx.servers.inspectedAfter(1)
    await tx.nextDue(1)
  })
  const queries = prepare.mock.calls.map(([sql]) => sql).filter((sql) => /^\s*SELECT/.test(sql))
  prepare.mockRestore()
  await store.close()
  expect(queries).toHaveLength(10)
  const db = new DatabaseSync(path)
  for (const sql of queries) {
    const values = [...sql.matchAll(/\?1?/g)].map(([text]) => text)
    const count = values.includes('?1') ? 1 : values.length
    const plan = db.prepare(`EXPLAIN QUERY PLAN ${sql}`).all(...Array<number>(count).fill(1))
    const scans = plan
      .map(({ detail }) => String(detail))
      .filter((detail) => /^SCAN (jobs?|grants|servers)\b/.test(detail))
    expect(scans, sql).toEqual([])
  }
  db.close()
})

test('inspections that are over are forgotten after a week, ends never', async () => {
  const scene = await stage()
  await scene.grant({ seconds: 60 })
  await scene.fake.work()
  scene.clock.advance(60_000)
  await scene.fake.register()
  await scene.fake.work()
  const count = (sql: string): number => {
    const db = new DatabaseSync(join(scene.stateDir, 'control-plane.db'), { readOnly: true })
    const n = Number(db.prepare(`SELECT count(*) AS n FROM ${sql}`).get()?.['n'])
    db.close()
    return n
  }
  const ensures = count("jobs WHERE kind = 'ensure'")
  const before = count('outcomes')
  scene.clock.advance(6 * 24 * HOUR)
  await scene.fake.register()
  await scene.fake.work()
  expect(count('jobs WHERE open = 0')).toBe(ensures + 2 * SERVERS.length)
  scene.clock.advance(2 * 24 * HOUR)
  await scene.fake.register()
  await scene.fake.work()
  expect(count("jobs WHERE kind = 'inspect'")).toBe(2 * SERVERS.length)
  expect(count("jobs WHERE kind = 'ensure'")).toBe(ensures)
  expect(count('outcomes')).toBe(before + SERVERS.length)
})

test('many servers are added, inspected and inspected again without holding everything up', async () => {
  const scene = await stage({ random: randomBytes })
  const servers = Array.from({ length: 10_000 }, (_, index) => ({ name: `server-${index}`, host: `h${index}` }))
  let lag = 0
  let last = performance.now()
  const watch = setInterval(() => {
    lag = Math.max(lag, performance.now() - last)
    last = performance.now()
  }, 10)
  await scene.admin.ok('POST', '/api/admin/v4/integrations', integrationBody({ name: 'Many' }, { servers }))
  await scene.fake.claim()
  // The watch sees a lag when it is over.
  const answered = performance.now()
  await expect.poll(() => last).toBeGreaterThan(answered)
  clearInterval(watch)
  expect(lag).toBeLessThan(4000)
  const db = new DatabaseSync(join(scene.stateDir, 'control-plane.db'), { readOnly: true })
  const row = db.prepare('SELECT max(inspect_at) - min(inspect_at) AS spread FROM servers').get()
  db.close()
  expect(Number(row?.['spread'])).toBeGreaterThan(55 * 60_000)
})

test('a body nested beyond sense is a bad request', async () => {
  const scene = await stage()
  const deep = `${'['.repeat(100_000)}${']'.repeat(100_000)}`
  const text = JSON.stringify(integrationBody({ name: 'Deep' }, { deep: 'DEEP' })).replace('"DEEP"', deep)
  expect(await scene.admin.call('POST', '/api/admin/v4/integrations', text)).toMatchObject({
    status: 400,
    body: { errors: [{ path: 'body' }] },
  })
  const owner = JSON.stringify(integrationBody({ name: 'Deep', owner: 'DEEP' })).replace(
    '"DEEP"',
    `{"attribute_type":"a","attribute_value":[],"more":${deep}}`,
  )
  expect((await scene.admin.call('POST', '/api/admin/v4/integrations', owner)).status).toBe(400)
})
