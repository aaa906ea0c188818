import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { type Connectors, connect } from './connectors.ts'
import { expectNobody } from './world.ts'

/** Many runs at once: connectors with each other, ends with beginnings, logins with ends. */
let host: TestHost
let of: Connectors
beforeAll(async () => {
  host = await startHost()
  of = await connect(host)
})
afterAll(() => host?.stop())

let serial = 0
let login = ''
let id = ''
beforeEach(() => {
  login = `rae${++serial}`
  id = `grt_x${serial}`
})

const lines = async (command: string): Promise<string[]> =>
  (await host.exec(command)).stdout.split('\n').filter((line) => line !== '')
const twenty = Array.from({ length: 20 }, (_, n) => n)

describe('twenty grants at once', { timeout: 120_000 }, () => {
  it('to twenty logins: twenty accounts, numbers and lines', async () => {
    const replies = await Promise.all(
      twenty.map((n) => of.grant(n, { id: `${id}_${n}`, login: `${login}_${n}`, groups: ['dbadmins'] })),
    )
    expect(replies.every((reply) => reply.createdLogin)).toBe(true)
    expect(new Set(replies.map((reply) => reply.uid)).size).toBe(20)
    expect(await lines(`grep -h -c . /etc/ssh/apono-connector/${login}_*`)).toEqual(twenty.map(() => '1'))
    for (const file of ['passwd', 'shadow', 'group']) {
      expect(await lines(`grep -c '^${login}_' /etc/${file}`)).toEqual(['20'])
    }
    const members = (await host.getent('group', 'dbadmins'))?.at(-1)?.split(',')
    expect(members).toEqual(expect.arrayContaining(twenty.map((n) => `${login}_${n}`)))
  })

  it('to one login, and their ends at once: one account, and every line and none', async () => {
    const nth = (n: number) => ({ id: `${id}_${n}`, login, groups: n % 2 ? ['dbadmins'] : ['developers'] })
    const replies = await Promise.all(twenty.map((n) => of.grant(n, nth(n))))
    expect(replies.filter((reply) => reply.createdLogin).length).toBe(1)
    expect(new Set(replies.map((reply) => reply.uid)).size).toBe(1)
    expect(await lines(`grep -c '^${login}:' /etc/passwd /etc/shadow /etc/group`)).toEqual([
      '/etc/passwd:1',
      '/etc/shadow:1',
      '/etc/group:1',
    ])
    expect(await lines(`grep -c . /etc/ssh/apono-connector/${login}`)).toEqual(['20'])
    expect(await lines(`grep -l '^state=present' /var/lib/apono-connector/grants/*.${id}_*`)).toHaveLength(20)
    expect(await host.groupsOf(login)).toEqual(expect.arrayContaining(['dbadmins', 'developers', 'apono-managed']))

    await Promise.all(twenty.map((n) => of.end(n, nth(n))))
    expect(await lines(`ls /etc/ssh/apono-connector/${login}`)).toEqual([])
    expect(await lines(`grep -l '^state=absent' /var/lib/apono-connector/grants/*.${id}_*`)).toHaveLength(20)
    expect(await host.groupsOf(login)).toEqual([login, 'apono-managed'])
    expect(await host.shadow(login)).toMatchObject({ locked: true, expires: '1' })
  })
})

describe('beginning and end that cross', { timeout: 60_000 }, () => {
  const settled = (acts: Promise<unknown>[]) => Promise.allSettled(acts)
  const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

  it.each([0, 15, 40, 80, 150])('come to the higher pair, whoever is first: %i ms apart', async (apart) => {
    const { createdLogin } = await of.grant(0, { id: `${id}other`, login })
    expect(createdLogin).toBe(true)
    const has = async () => (await lines(`grep -c ' apono:cp_test[.]${id}[.]' /etc/ssh/apono-connector/${login}`))[0]

    // The end is the higher pair.
    await settled([
      of.grant(0, { id, login, groups: ['dbadmins'] }),
      pause(apart).then(() => of.end(1, { id, login, generation: 2 })),
    ])
    expect({ apart, has: await has() }).toEqual({ apart, has: '0' })
    expect(await host.groupsOf(login)).not.toContain('dbadmins')

    // The beginning is: whichever comes first, what stands at the end is generation 4.
    await of.grant(0, { id, login, generation: 3, groups: ['dbadmins'] })
    await settled([
      pause(apart).then(() => of.end(0, { id, login, generation: 3, epoch: 1 })),
      of.grant(1, { id, login, generation: 4, groups: ['developers'] }),
      pause(apart / 2).then(() => of.end(2, { id, login, generation: 3 })),
    ])
    expect({ apart, has: await has() }).toEqual({ apart, has: expect.stringMatching(/^[1-9]$/) })
    expect(await host.groupsOf(login)).toContain('developers')
    expect(await host.groupsOf(login)).not.toContain('dbadmins')
    expect((await of.end(3, { id, login, generation: 5 })).account).toBe('kept')
  })

  it('a login that is just being established does not outlive the end', async () => {
    for (const wait of [0, 120, 250]) {
      const one = { id: `${id}_${wait}`, login: `${login}_${wait}` }
      const { certificatePath, reply } = await of.person.present(one)
      const logins = [0, 1, 2, 3].map(async (n) => {
        await pause(n * 50)
        return of.person.login(certificatePath, 'exec sleep 60', one.login)
      })
      await pause(wait)
      expect(await of.end(1, one)).toMatchObject({ processesLeft: 0, account: 'locked' })
      // Who comes now is turned away; who was on the way is out.
      expect((await Promise.all(logins)).map(({ code }) => code)).not.toContain(0)
      await expectNobody(host, reply.uid)
    }
  })
})

describe('two control planes on one server', () => {
  it('share it by login: the first one has it, and the other is told', async () => {
    const other = { controlPlaneId: 'cp_other' }
    const outcomes = await Promise.allSettled([
      ...[0, 1, 2].map((n) => of.grant(n, { id: `${id}_${n}`, login })),
      ...[0, 1, 2].map((n) => of.grant(n + 1, { id: `${id}_${n}`, login }, other)),
    ])
    const won = outcomes.map(({ status }) => status === 'fulfilled')
    expect([won.slice(0, 3), won.slice(3)].map((three) => new Set(three).size)).toEqual([1, 1])
    expect(won[0]).not.toBe(won[3])
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'login_taken' })
    }
    // The loser's end of a grant that it never had ends nothing.
    const [loser, winner] = won[0] ? [other, {}] : [{}, other]
    await expect(of.end(0, { id: `${id}_9`, login }, loser)).resolves.toMatchObject({ account: 'kept', changed: false })
    expect(await lines(`grep -c . /etc/ssh/apono-connector/${login}`)).toEqual(['3'])
    await Promise.all([0, 1, 2].map((n) => of.end(n, { id: `${id}_${n}`, login }, winner)))
    expect(await host.shadow(login)).toMatchObject({ locked: true, expires: '1' })
  })
})
