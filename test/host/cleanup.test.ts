import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { cleanup } from '../../src/host/host-program.ts'
import { Policy } from '../../src/protocol/integration.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson, type Person, runContext } from './person.ts'

let host: TestHost
let person: Person
beforeAll(async () => {
  host = await startHost()
  person = await makePerson(host)
})
afterAll(() => host?.stop())

let serial = 0
let login = ''
let id = ''
beforeEach(() => {
  login = `dora${++serial}`
  id = `grt_${serial}`
})

const clean = (policy: Partial<Policy> = {}, of = login) =>
  cleanup(person.link, runContext(), { login: of, policy: Policy.parse(policy) })

const granted = async () => {
  const { certificatePath, reply } = await person.present({ id, login, groups: ['dbadmins'] })
  await person.login(certificatePath, 'echo mine >note; ln -s /etc/motd link; mkdir -p a/b; touch a/b/c', login)
  return { certificatePath, uid: reply.uid, hostId: reply.hostId }
}

describe('cleanup', () => {
  it('deletes the account, puts its home where only root gets to it, and spends its uid', async () => {
    const { uid, hostId } = await granted()
    await person.absent({ id, login, groups: ['dbadmins'] })
    const homeArchive = `/home/.apono-connector/${login}.${uid}`
    expect(await clean()).toEqual({ hostId, login, account: 'deleted', homeArchive, changed: true })

    expect(await host.passwd(login)).toBeUndefined()
    expect(await host.getent('group', login)).toBeUndefined()
    expect((await host.exec(`ls -d /home/${login} /var/lib/apono-connector/logins/${login}`)).stdout).toBe('')
    expect((await host.exec(`stat -c '%U %a' /home/.apono-connector; cat ${homeArchive}/note`)).stdout).toBe(
      'root 700\nmine\n',
    )
    expect((await host.exec(`cat ${homeArchive}/note`, { user: 'apono' })).code).not.toBe(0)

    // Again: nothing to do. The proof of the grant's end is still there.
    expect(await clean()).toMatchObject({ account: 'deleted', changed: false })
    expect(await person.absent({ id, login, groups: ['dbadmins'] })).toMatchObject({
      account: 'locked',
      changed: false,
    })

    const next = await person.present({ id: `${id}b`, login })
    expect(next.reply.createdLogin).toBe(true)
    expect(next.reply.uid).not.toBe(uid)
    expect((await person.login(next.certificatePath, 'cat note', login)).code).not.toBe(0)
  })

  it('deletes the home with it where the policy says so, and follows none of its links', async () => {
    await granted()
    await person.absent({ id, login, groups: ['dbadmins'] })
    const motd = await host.exec('stat /etc/motd')
    expect(await clean({ homes: 'delete' })).toMatchObject({ account: 'deleted', homeArchive: null })
    expect((await host.exec(`ls -d /home/${login} /home/.apono-connector/${login}.*`)).stdout).toBe('')
    expect(await host.exec('stat /etc/motd')).toEqual(motd)
  })

  it('refuses while a grant is not ended, and changes nothing', async () => {
    const { certificatePath } = await granted()
    const before = await host.exec('cat /etc/passwd /etc/shadow /etc/group')
    await expect(clean()).rejects.toMatchObject({ code: 'grants_live' })
    expect(await host.exec('cat /etc/passwd /etc/shadow /etc/group')).toEqual(before)
    expect((await person.login(certificatePath, 'cat note', login)).stdout).toBe('mine\n')
  })

  it('touches no account that we did not make', async () => {
    await host.exec(`useradd -m ${login}`)
    expect(await clean()).toMatchObject({ account: 'kept', changed: false, homeArchive: null })
    expect(await host.passwd(login)).toBeDefined()
    expect(await clean({}, 'nobodyhere')).toMatchObject({ account: 'deleted', changed: false })
  })

  it('ends what somebody started in the account since', async () => {
    const { uid } = await granted()
    await person.absent({ id, login, groups: ['dbadmins'] })
    await host.exec(`setpriv --reuid ${uid} --clear-groups setsid sleep 800 >/dev/null 2>&1 &`)
    await expect.poll(async () => (await host.processesOf(uid)).length).toBe(1)
    expect(await clean()).toMatchObject({ account: 'deleted' })
    expect(await host.processesOf(uid)).toEqual([])
  })

  it('that cannot put the home away deletes nothing', async () => {
    const { uid } = await granted()
    await person.absent({ id, login, groups: ['dbadmins'] })
    await host.exec(`mkdir -p /home/.apono-connector/${login}.${uid}; chmod 700 /home/.apono-connector`)
    await expect(clean()).rejects.toMatchObject({ code: 'cleanup_failed' })
    expect((await host.exec(`cat /home/${login}/note`)).stdout).toBe('mine\n')
    // A new grant for the name finishes the deletion first, so it needs the same thing out of the way.
    await expect(person.present({ id: `${id}b`, login })).rejects.toMatchObject({ code: 'cleanup_failed' })
    await host.exec(`rmdir /home/.apono-connector/${login}.${uid}`)
    const next = await person.present({ id: `${id}b`, login })
    expect(next.reply).toMatchObject({ createdLogin: true })
    expect(next.reply.uid).not.toBe(uid)
  })

  it.each([
    ['the uid of root', 's/^uid=.*/uid=0/'],
    ['no uid at all', 's/^uid=.*/uid=x/'],
  ])('does not follow a ledger that says %s', async (_what, edit) => {
    const { certificatePath, uid } = await granted()
    const session = person.stay(certificatePath, login)
    await session.ready
    await host.exec(`sed -i '${edit}' /var/lib/apono-connector/logins/${login}`)
    await expect(person.present({ id: `${id}b`, login })).rejects.toMatchObject({ code: 'ledger_unsafe' })
    // The end is done as far as can be told whose it is, and not called confirmed.
    await expect(person.absent({ id, login, groups: ['dbadmins'] })).rejects.toMatchObject({
      code: 'revoke_incomplete',
    })
    expect(await session.closed).toBe(255)
    expect(await host.processesOf(uid)).toEqual([])
    expect(await host.shadow('root')).toMatchObject({ expires: '' })
    await host.exec(`rm /var/lib/apono-connector/logins/${login}`)
  })
})
