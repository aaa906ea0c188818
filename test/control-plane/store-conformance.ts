import { expect, test } from 'vitest'
import type { GrantRecord, JobRecord, UserRecord } from '../../src/control-plane/access/model.ts'
import type { Page, Store } from '../../src/control-plane/store/store.ts'

/** Opens the same data again when it is called with the same place. */
export interface StoreUnderTest {
  open(): Promise<Store>
}

const user = (id: string, changes: Partial<UserRecord> = {}): UserRecord => ({
  id,
  email: `${id}@example.com`,
  login: id,
  role: 'user',
  createdAt: 1,
  ...changes,
})

const job = (id: string, changes: Partial<JobRecord> = {}): JobRecord => ({
  id,
  connectorId: 'c1',
  serverKey: `${id}:22`,
  kind: 'ensure',
  priority: 1,
  grantId: `g-${id}`,
  generation: 1,
  serverId: 's1',
  open: true,
  dueAt: 100,
  attempt: 0,
  failures: 0,
  epoch: 0,
  lease: null,
  progress: null,
  createdAt: 1,
  ...changes,
})

const lease = (until: number) => ({ instanceId: 'i1', handedAt: 0, until })

/** Only what the store looks at; the rest travels as it is. */
const grant = (id: string, changes: Partial<GrantRecord> = {}): GrantRecord =>
  ({
    id,
    requestId: 'r1',
    userId: 'u1',
    connectorId: 'c1',
    serverId: 's1',
    state: 'present',
    notAfter: 1000,
    present: null,
    closed: null,
    ...changes,
  }) as GrantRecord

const ids = (records: readonly { id: string }[]): string[] => records.map(({ id }) => id)

/** What every `Store` has to do, whatever is below it. */
export const describeStore = (make: () => Promise<StoreUnderTest>): void => {
  const opened = async (): Promise<Store> => (await make()).open()

  test('a transaction keeps all of its writes or none', async () => {
    const store = await opened()
    const failing = store.write(async (tx) => {
      await tx.users.put(user('a'))
      await tx.epoch.next()
      throw new Error('no')
    })
    await expect(failing).rejects.toThrow('no')
    expect(await store.read((tx) => tx.users.get('a'))).toBeNull()
    expect(await store.write((tx) => tx.epoch.next())).toBe(1)
    await store.close()
  })

  test('a savepoint undoes what it wrote, and only that', async () => {
    const store = await opened()
    await store.write(async (tx) => {
      await tx.users.put(user('before'))
      const failing = tx.savepoint(async () => {
        await tx.users.put(user('within'))
        await tx.savepoint(() => tx.users.put(user('deeper')))
        throw new Error('no')
      })
      await expect(failing).rejects.toThrow('no')
      await tx.savepoint(() => tx.users.put(user('after')))
    })
    const { items } = await store.read((tx) => tx.users.page({ limit: 10, after: null }))
    expect(ids(items)).toEqual(['before', 'after'])
    await store.close()
  })

  test('what was written is there when it is opened again', async () => {
    const place = await make()
    const store = await place.open()
    await store.write(async (tx) => {
      await tx.users.put(user('a'))
      await tx.meta.set('name', 'value')
      await tx.epoch.next()
    })
    await store.close()
    const again = await place.open()
    expect(await again.read((tx) => tx.users.get('a'))).toEqual(user('a'))
    expect(await again.read((tx) => tx.meta.get('name'))).toBe('value')
    expect(await again.write((tx) => tx.epoch.next())).toBe(2)
    await again.close()
  })

  test('writes run one after another, so that none decides on what another changes', async () => {
    const store = await opened()
    const addOne = () =>
      store.write(async (tx) => {
        const before = Number((await tx.meta.get('n')) ?? 0)
        await new Promise(setImmediate)
        await tx.meta.set('n', String(before + 1))
      })
    await Promise.all(Array.from({ length: 20 }, addOne))
    expect(await store.read((tx) => tx.meta.get('n'))).toBe('20')
    await store.close()
  })

  test('a read that writes is an error and changes nothing', async () => {
    const store = await opened()
    await expect(store.read((tx) => tx.users.put(user('a')))).rejects.toThrow()
    expect(await store.read((tx) => tx.users.count())).toBe(0)
    await store.write((tx) => tx.users.put(user('a')))
    await store.close()
  })

  test('a record is replaced by its id and keeps its place', async () => {
    const store = await opened()
    await store.write(async (tx) => {
      for (const id of ['a', 'b', 'c']) await tx.users.put(user(id))
      await tx.users.put(user('a', { role: 'admin' }))
    })
    const { items } = await store.read((tx) => tx.users.page({ limit: 10, after: null }))
    expect(items.map(({ id, role }) => [id, role])).toEqual([
      ['a', 'admin'],
      ['b', 'user'],
      ['c', 'user'],
    ])
    await store.close()
  })

  test('emails, logins and token hashes are unique', async () => {
    const store = await opened()
    await store.write((tx) => tx.users.put(user('a')))
    await expect(store.write((tx) => tx.users.put(user('b', { login: 'a' })))).rejects.toThrow()
    await expect(store.write((tx) => tx.users.put(user('b', { email: 'a@example.com' })))).rejects.toThrow()
    await store.close()
  })

  test('pages leave none out and repeat none, in both directions', async () => {
    const store = await opened()
    const all = ['a', 'b', 'c', 'd', 'e']
    await store.write(async (tx) => {
      for (const id of all) await tx.users.put(user(id))
    })
    for (const newestFirst of [false, true]) {
      const pageAfter = (after: number | null): Promise<Page<UserRecord>> =>
        store.read((tx) => tx.users.page({ limit: 2, after, newestFirst }))
      const seen: string[] = []
      let page = await pageAfter(null)
      for (; page.next !== null; page = await pageAfter(page.next)) seen.push(...ids(page.items))
      seen.push(...ids(page.items))
      expect(seen).toEqual(newestFirst ? all.toReversed() : all)
    }
    await store.close()
  })

  test('the epoch rises by one and never falls', async () => {
    const store = await opened()
    expect(await store.write((tx) => tx.epoch.next())).toBe(1)
    expect(await store.write((tx) => tx.epoch.next())).toBe(2)
    await store.close()
  })

  const claimable = (store: Store, now: number, limit = 10) =>
    store.read(async (tx) => ids(await tx.jobs.claimable({ connectorId: 'c1', now, limit })))

  test("claimable: open, due, free, this connector's, most urgent first", async () => {
    const store = await opened()
    await store.write(async (tx) => {
      await tx.jobs.put(job('later', { dueAt: 101 }))
      await tx.jobs.put(job('second', { dueAt: 90 }))
      await tx.jobs.put(job('third', { dueAt: 95 }))
      await tx.jobs.put(job('first', { dueAt: 100, priority: 0 }))
      await tx.jobs.put(job('closed', { open: false }))
      await tx.jobs.put(job('leased', { lease: lease(200) }))
      await tx.jobs.put(job('foreign', { connectorId: 'c2' }))
    })
    expect(await claimable(store, 100)).toEqual(['first', 'second', 'third'])
    expect(await claimable(store, 100, 2)).toEqual(['first', 'second'])
    await store.close()
  })

  test('claimable: one per server, and none where anybody works, also on a job that is closed', async () => {
    const store = await opened()
    await store.write(async (tx) => {
      await tx.jobs.put(job('a1', { serverKey: 'a:22', dueAt: 2 }))
      await tx.jobs.put(job('a2', { serverKey: 'a:22', dueAt: 1 }))
      await tx.jobs.put(job('b1', { serverKey: 'b:22' }))
      await tx.jobs.put(job('b2', { serverKey: 'b:22', connectorId: 'c2', open: false, lease: lease(200) }))
    })
    expect(await claimable(store, 100)).toEqual(['a2'])
    expect(await claimable(store, 200)).toEqual(['a2', 'b1'])
    await store.close()
  })

  test('jobs are found by grant, server, holder and the end of their lease', async () => {
    const store = await opened()
    await store.write(async (tx) => {
      await tx.jobs.put(job('a', { lease: lease(50) }))
      await tx.jobs.put(job('b', { open: false, grantId: 'g-a' }))
      await tx.jobs.put(job('c', { kind: 'inspect', grantId: null }))
    })
    await store.read(async (tx) => {
      expect(ids(await tx.jobs.openOfGrant('g-a'))).toEqual(['a'])
      expect((await tx.jobs.openInspection('s1'))?.id).toBe('c')
      expect(ids(await tx.jobs.leasedBy('i1'))).toEqual(['a'])
      expect(ids(await tx.jobs.lapsed(49))).toEqual([])
      expect(ids(await tx.jobs.lapsed(50))).toEqual(['a'])
    })
    await store.close()
  })

  test('grants are found by phase, owner, connector and end', async () => {
    const store = await opened()
    await store.write(async (tx) => {
      await tx.grants.put(grant('granting'))
      await tx.grants.put(grant('ending', { state: 'absent' }))
      await tx.grants.put(grant('closed', { state: 'absent', closed: { at: 1, how: 'confirmed' } }))
      await tx.grants.put(grant('foreign', { connectorId: 'c2', userId: 'u2', notAfter: 2000 }))
    })
    const query = { limit: 10, after: null }
    await store.read(async (tx) => {
      expect(ids((await tx.grants.openOfConnector({ ...query, connectorId: 'c1' })).items)).toEqual([
        'granting',
        'ending',
      ])
      expect(ids((await tx.grants.page({ ...query, userId: 'u1', phase: 'ending' })).items)).toEqual(['ending'])
      expect(await tx.grants.overdue(999)).toEqual([])
      expect(await tx.grants.overdue(1000)).toEqual(['granting'])
    })
    await store.close()
  })

  test('nextDue: the earliest of what will be due, and nothing that is past', async () => {
    const store = await opened()
    expect(await store.read((tx) => tx.nextDue(0))).toBeNull()
    await store.write(async (tx) => {
      await tx.jobs.put(job('a', { dueAt: 300 }))
      await tx.jobs.put(job('b', { dueAt: 10, lease: lease(200) }))
      await tx.grants.put(grant('g', { notAfter: 100 }))
    })
    const after = (now: number) => store.read((tx) => tx.nextDue(now))
    expect([await after(0), await after(100), await after(200), await after(300)]).toEqual([100, 200, 300, null])
    await store.close()
  })

  test('an outcome is kept once', async () => {
    const store = await opened()
    const outcome = { subject: 'job', counter: 1, outcome: 'failed', at: 1, body: { code: 'x' } } as const
    await store.write((tx) => tx.outcomes.add(outcome))
    expect(await store.read((tx) => tx.outcomes.get('job', 1))).toEqual(outcome)
    expect(await store.read((tx) => tx.outcomes.get('job', 2))).toBeNull()
    await expect(store.write((tx) => tx.outcomes.add(outcome))).rejects.toThrow()
    await store.close()
  })

  test('closing twice is fine', async () => {
    const store = await opened()
    await store.close()
    await store.close()
  })
}
