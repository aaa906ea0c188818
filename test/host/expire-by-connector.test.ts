import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { expire } from '../../src/host/host-program.ts'
import { AbsentResult } from '../../src/protocol/results.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { CONTROL_PLANE, type GrantOptions, makePerson, type Person, runContext } from './person.ts'

// The end of a grant by the connector's own clock and the server's ledger, without a job.

let host: TestHost
let person: Person
beforeAll(async () => {
  host = await startHost()
  person = await makePerson(host)
})
afterAll(() => host?.stop())

const HOUR = 3_600_000
const later = (ms: number) => runContext(Date.now() + ms)
const end = (options: GrantOptions, context = runContext(), hostId: string | null = null) =>
  expire(person.link, context, { id: options.id ?? '', login: options.login ?? '', hostId })

const live = async (name: string, seconds: number) => {
  const grant = { id: `grt_${name}`, login: name, groups: ['dbadmins'], seconds }
  const { certificatePath, reply } = await person.present(grant)
  return { grant, certificatePath, reply }
}

describe('the end that a connector brings by itself', () => {
  test('is not due before the recorded end, and says when that is', async () => {
    const { grant, certificatePath } = await live('early', 600)
    const answer = await end(grant)
    const inMs = ('notDueBefore' in answer ? answer.notDueBefore : 0) - Date.now()
    expect(inMs).toBeGreaterThan(590_000)
    expect(inMs).toBeLessThanOrEqual(601_000)
    expect((await person.login(certificatePath, 'id -Gn', 'early')).stdout).toContain('dbadmins')
  })

  test('ends access, sessions, groups and account when it is due by the later of the clocks, and gives the proof again', async () => {
    const { grant, certificatePath, reply } = await live('over', 600)
    const session = person.stay(certificatePath, 'over')
    await session.ready
    const ended = AbsentResult.parse(await end(grant, later(HOUR)))
    expect(ended).toMatchObject({ login: 'over', groupsRemoved: ['dbadmins'], processesLeft: 0, changed: true })
    expect(await session.closed).toBe(255)
    expect(await host.processesOf(reply.uid)).toEqual([])
    expect(await host.groupsOf('over')).not.toContain('dbadmins')
    expect((await host.shadow('over'))?.expires).toBe('1')
    expect((await person.login(certificatePath, 'true', 'over')).code).toBe(255)
    expect(await end(grant, later(HOUR))).toEqual({ ...ended, changed: false })
  })

  test('keeps to an extension that is recorded, whoever has not heard of it', async () => {
    const { grant } = await live('longer', 600)
    const extended = await person.present({ ...grant, generation: 2, epoch: 5, seconds: 7200 })
    expect(await end(grant, later(HOUR))).toHaveProperty('notDueBefore')
    expect((await person.login(extended.certificatePath, 'id -Gn', 'longer')).stdout).toContain('dbadmins')
  })

  test('leaves a login its other grants', async () => {
    const one = await live('shared', 600)
    const other = { ...one.grant, id: 'grt_other', groups: ['developers'], epoch: 9, seconds: 7200 }
    const { certificatePath } = await person.present(other)
    await end(one.grant, later(HOUR))
    const { stdout } = await person.login(certificatePath, 'id -Gn', 'shared')
    expect(stdout).toContain('developers')
    expect(stdout).not.toContain('dbadmins')
  })

  test('touches nothing that the ledger does not know, or that is another machine’s', async () => {
    const { grant } = await live('early', 600)
    const before = (await host.exec('ls -lR --full-time /var/lib/apono-connector; cat /etc/passwd /etc/group')).stdout
    await expect(end({ id: 'grt_never', login: 'root' }, later(HOUR))).rejects.toMatchObject({ code: 'ledger_lost' })
    await expect(end({ id: '../../x', login: 'root' }, later(HOUR))).rejects.toMatchObject({ code: 'invalid_grant' })
    const stranger = { ...later(HOUR), controlPlaneId: `${CONTROL_PLANE}_other` }
    await expect(end(grant, stranger)).rejects.toMatchObject({ code: 'ledger_lost' })
    expect((await host.exec('ls -lR --full-time /var/lib/apono-connector; cat /etc/passwd /etc/group')).stdout).toBe(
      before,
    )
  })
})
