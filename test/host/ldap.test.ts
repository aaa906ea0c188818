import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson, type Person } from './person.ts'

/** A server whose people and groups come from an LDAP directory: docker/hosts/ldap/directory.ldif. */
let host: TestHost
let person: Person
beforeAll(async () => {
  host = await startHost({ kind: 'ldap' })
  person = await makePerson(host)
})
afterAll(() => host?.stop())

const accounts = () => host.exec('cat /etc/passwd /etc/group /etc/shadow; ls /home')
const refused = async (code: string, act: () => Promise<unknown>) => {
  const before = await accounts()
  await expect(act()).rejects.toMatchObject({ code })
  expect(await accounts()).toEqual(before)
}

describe('a directory', () => {
  it('has uids that we never give', async () => {
    const { reply } = await person.present({ id: 'grt_uid', login: 'nina' })
    expect(reply.uid).toBeGreaterThan(20_000)
    expect(await host.getent('passwd', '20000')).toContain('ldapuser')
    expect(await host.passwd('nina')).toMatchObject({ uid: reply.uid })
  })

  it('owns its logins, also those whose name is one of its groups', async () => {
    expect(await host.passwd('ldapuser')).toMatchObject({ uid: 20_000 })
    await refused('login_foreign', () => person.present({ id: 'grt_u', login: 'ldapuser' }))
    await refused('login_exists', () => person.present({ id: 'grt_g', login: 'ldapstaff' }))
  })

  it('owns its groups: one that does not list the login is refused, also beside a local one', async () => {
    await refused('group_foreign', () => person.present({ id: 'grt_s', login: 'dana', groups: ['ldapstaff'] }))
    await refused('group_foreign', () =>
      person.present({ id: 'grt_s2', login: 'dana', groups: ['dbadmins', 'ldapstaff'] }),
    )
    await refused('group_missing', () => person.present({ id: 'grt_n', login: 'dana', groups: ['ldapnone'] }))
  })

  it('lists the login in a group: it is given, and neither written down nor taken here', async () => {
    const grant = { id: 'grt_a', login: 'dana', groups: ['ldapadmins', 'dbadmins'] }
    const { reply, certificatePath } = await person.present(grant)
    expect(reply).toMatchObject({ groupsAdded: ['dbadmins'] })
    const { stdout } = await person.login(certificatePath, 'id -Gn', 'dana')
    expect(stdout.trim().split(' ')).toEqual(expect.arrayContaining(['ldapadmins', 'dbadmins']))
    expect((await host.exec('grep ^ldapadmins: /etc/group')).code).toBe(1)

    expect(await person.absent(grant)).toMatchObject({ groupsRemoved: ['dbadmins'], account: 'locked' })
    expect((await person.login(certificatePath, 'true', 'dana')).code).toBe(255)
  })

  // The last test: nobody asks the directory after it.
  it('that can’t be asked any more keeps nobody in', async () => {
    const grant = { id: 'grt_down', login: 'olga', groups: ['dbadmins'] }
    const { reply, certificatePath } = await person.present(grant)
    const session = person.stay(certificatePath, 'olga')
    await session.ready
    expect((await host.exec('pkill -KILL -x nslcd')).code).toBe(0)
    expect(await host.passwd('ldapuser')).toBeUndefined()

    const result = await person.absent(grant)
    expect(result).toMatchObject({ processesLeft: 0, account: 'locked', groupsRemoved: ['dbadmins'] })
    expect(await session.closed).toBe(255)
    expect(await host.processesOf(reply.uid)).toEqual([])
    expect(await host.shadow('olga')).toMatchObject({ expires: '1', locked: true })
  })
})
