import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { cleanup, ensurePresent, inspect, uninstall } from '../../src/host/host-program.ts'
import { programFor } from '../../src/host/program-text.ts'
import { Policy } from '../../src/protocol/integration.ts'
import type { CommandResult } from '../hosts/command.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { ACCOUNT_FILES, type AccountFiles, accountFiles } from './account-files.ts'
import { type GrantOptions, makePerson, openSshLink, type Person, runContext } from './person.ts'

/**
 * A server as Alpine is one: BusyBox for everything, sshd without PAM. No tool there expires an account, so the program
 * edits the account files; what admins and their tools do to the same files meanwhile must survive, and so must ours.
 */
let host: TestHost
let person: Person
let files: AccountFiles
/** These machines are small. */
const SOON = { timeout: 20_000, interval: 20 }

beforeAll(async () => {
  host = await startHost({ kind: 'busybox' })
  files = await accountFiles(host)
}, 400_000)
afterAll(() => host?.stop())

let serial = 0
let login = ''
let id = ''
beforeEach(async () => {
  login = `ash${++serial}`
  id = `grt_b${serial}`
  person = await makePerson(host)
})

const onAsh = ({ policy, ...rest }: GrantOptions = {}): GrantOptions => ({
  id,
  login,
  ...rest,
  policy: { shell: '/bin/ash', ...policy },
})
const present = (options?: GrantOptions) => person.present(onAsh(options))
const absent = (options?: GrantOptions) => person.absent(onAsh(options))

const root = async (command: string): Promise<CommandResult> => {
  const result = await host.exec(command)
  expect(result, command).toMatchObject({ code: 0 })
  return result
}

describe('a grant', { timeout: 120_000 }, () => {
  it('makes a login that gets in by certificate and belongs to the group', async () => {
    const { reply, certificatePath } = await present({ groups: ['dbadmins'] })
    expect(reply).toMatchObject({ createdLogin: true, groupsAdded: ['dbadmins'], trust: 'root_file', changed: true })
    const { code, stdout, stderr } = await person.login(certificatePath, 'id -un; id -Gn; stat -c "%a %U:%G" ~', login)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const [name, groups = '', home] = stdout.trim().split('\n')
    expect(name).toBe(login)
    expect(groups.split(' ').sort()).toEqual(['apono-managed', login, 'dbadmins'].sort())
    expect(home).toBe(`700 ${login}:${login}`)
    expect(await host.passwd(login)).toMatchObject({ uid: reply.uid, gid: reply.uid, shell: '/bin/ash' })
    expect(await host.shadow(login)).toMatchObject({ hash: '*', expires: '' })
    await files.expectWellFormed()
  })

  it('copies the skeleton of a home, as adduser does', async () => {
    await root('mkdir -p /etc/skel/notes && echo hello >/etc/skel/notes/.hello')
    try {
      const { certificatePath } = await present()
      const { stdout } = await person.login(
        certificatePath,
        'stat -c %U notes/.hello && echo more >>notes/.hello',
        login,
      )
      expect(stdout.trim()).toBe(login)
    } finally {
      await root('rm -r /etc/skel')
    }
  })

  it('does nothing and says the same when the same job comes again', async () => {
    const { reply, request } = await present({ groups: ['dbadmins'] })
    const state = () =>
      root('cat /var/lib/apono-connector/grants/* | sha256sum; stat -c "%i %Y" /etc/passwd /etc/shadow /etc/group')
    const before = await state()
    expect(await ensurePresent(person.link, runContext(), request)).toEqual({ ...reply, changed: false })
    expect(await state()).toEqual(before)
  })

  it('ends sessions, jobs, memberships and the account, and proves it', async () => {
    const { certificatePath, reply } = await present({ groups: ['dbadmins'] })
    const session = person.stay(certificatePath, login)
    await session.ready
    await person.login(certificatePath, 'setsid nohup sleep 600 >/dev/null 2>&1 </dev/null &', login)
    await root(`echo '* * * * * true' | crontab -u ${login} -`)
    await expect
      .poll(async () => (await host.processesOf(reply.uid)).map(({ command }) => command))
      .toContain('sleep 600')
    const trust = await root(`cat /etc/ssh/apono-connector/${login}`)

    const result = await absent({ groups: ['dbadmins'] })
    expect(result).toMatchObject({
      groupsRemoved: ['dbadmins'],
      sessionsEnded: 1,
      processesLeft: 0,
      account: 'locked',
      changed: true,
      assurance: 'observed',
      residue: [{ kind: 'crontab', detail: '1 lines', removed: true }],
    })
    expect(await session.closed).toBe(255)
    expect(await host.processesOf(reply.uid)).toEqual([])
    expect(await host.groupsOf(login)).toEqual([login, 'apono-managed'])
    expect(await host.shadow(login)).toMatchObject({ hash: '!*', expires: '1' })
    expect((await host.exec(`crontab -u ${login} -l`)).code).not.toBe(0)
    await files.expectWellFormed()

    // It is the account that refuses, not only the missing trust line.
    await root(`printf '%s\\n' '${trust.stdout.trim()}' >/etc/ssh/apono-connector/${login}`)
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
    expect(await host.log()).toContain(`User ${login} not allowed because account is locked`)
    await root(`sed -i 's/^${login}:!/${login}:/' /etc/shadow`)
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
    expect(await host.log()).toContain(`Account ${login} has expired`)
    // The counter-test: without the expiry the same certificate gets in.
    await root(`sed -i 's/^${login}:[*]::::::1:/${login}:*:::::::/' /etc/shadow`)
    expect((await person.login(certificatePath, 'true', login)).code).toBe(0)
    await root(`rm /etc/ssh/apono-connector/${login}`)

    expect(await absent({ groups: ['dbadmins'] })).toEqual({ ...result, changed: false })
  })

  it('leaves exactly the rights of another live grant, and ends what ran with more', async () => {
    const first = await present({ groups: ['dbadmins', 'developers'] })
    const second = await present({ id: `${id}b`, groups: ['developers', 'deploy'] })
    const session = person.stay(second.certificatePath, login)
    await session.ready
    const result = await absent({ groups: ['dbadmins', 'developers'] })
    expect(result).toMatchObject({ account: 'kept', groupsRemoved: ['dbadmins'], processesLeft: 0 })
    expect(await session.closed).toBe(255)
    expect((await person.login(first.certificatePath, 'true', login)).code).toBe(255)
    const { stdout } = await person.login(second.certificatePath, 'id -Gn', login)
    expect(stdout.trim().split(' ').sort()).toEqual(['apono-managed', login, 'deploy', 'developers'].sort())
  })

  it('comes back for a new grant, with nothing of the old one', async () => {
    const first = await present({ groups: ['dbadmins'] })
    await absent({ groups: ['dbadmins'] })
    const second = await present({ id: `${id}b` })
    expect(second.reply).toMatchObject({ createdLogin: false, uid: first.reply.uid })
    expect((await person.login(first.certificatePath, 'true', login)).code).toBe(255)
    const { code, stdout } = await person.login(second.certificatePath, 'id -Gn', login)
    expect({ code, dbadmins: stdout.includes('dbadmins') }).toEqual({ code: 0, dbadmins: false })
  })

  it('never gives a uid twice, whatever deluser freed', async () => {
    const { reply } = await present()
    await absent()
    await root(`deluser ${login}`)
    await expect(present({ generation: 3 })).rejects.toMatchObject({ code: 'home_exists' })
    await root(`rm -r /home/${login}`)
    const again = await present({ generation: 3 })
    expect(again.reply.uid).toBeGreaterThan(reply.uid)
    expect((await person.login(again.certificatePath, 'true', login)).code).toBe(0)
  })

  it('ends for a person who deleted the account', async () => {
    const { certificatePath, reply } = await present({ groups: ['dbadmins'] })
    const session = person.stay(certificatePath, login)
    await session.ready
    await root(`deluser ${login}`)
    expect(await absent({ groups: ['dbadmins'] })).toMatchObject({ account: 'deleted', processesLeft: 0 })
    expect(await session.closed).toBe(255)
    expect(await host.processesOf(reply.uid)).toEqual([])
  })
})

describe('inspect', () => {
  it('finds nothing wrong, and changes nothing', async () => {
    const before = await root('ls -lR /etc /var /home | sha256sum')
    const result = await inspect(await openSshLink(host), runContext())
    expect(result).toMatchObject({
      os: { id: 'busybox' },
      ssh: { usePam: false, authorizedKeysFile: ['.ssh/authorized_keys'] },
      sudo: { ok: true, flavour: 'sudo' },
      trust: ['root_file', 'home'],
      problems: [{ code: 'sessions_not_tracked', severity: 'warning' }],
    })
    expect(result.tools).toEqual(expect.arrayContaining(['flock', 'sha256sum']))
    expect(result.tools).not.toContain('useradd')
    expect(Math.abs(result.clockSkewMs)).toBeLessThan(5000)
    expect(await root('ls -lR /etc /var /home | sha256sum')).toEqual(before)
  })
})

describe('in home mode', { timeout: 120_000 }, () => {
  const policy = { trust: 'home' } as const

  it('writes the trust line as the person, and takes it away', async () => {
    const { certificatePath, reply } = await present({ groups: ['dbadmins'], policy })
    expect(reply.trust).toBe('home')
    const file = `/home/${login}/.ssh/authorized_keys`
    expect((await root(`stat -c '%U:%G %a' ${file}`)).stdout.trim()).toBe(`${login}:${login} 600`)
    expect((await person.login(certificatePath, `echo '${person.key.publicKey}' >>${file}`, login)).code).toBe(0)
    expect((await person.login(undefined, 'true', login)).code).toBe(0)

    const result = await absent({ groups: ['dbadmins'], policy })
    expect(result).toMatchObject({
      account: 'locked',
      processesLeft: 0,
      residue: [{ kind: 'authorized_key', detail: '1 keys in ~/.ssh', removed: false }],
    })
    expect((await root(`cat ${file}`)).stdout).toBe(`${person.key.publicKey}\n`)
    expect((await person.login(undefined, 'true', login)).code).toBe(255)
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
  })

  it.each([
    ['a link in place of .ssh', 'mv .ssh elsewhere; ln -s /root .ssh'],
    ['a link to a file of root’s', 'rm .ssh/authorized_keys; ln -s /etc/passwd .ssh/authorized_keys'],
    ['a shut home', 'chmod 0 .ssh .'],
  ])('writes no file of root’s: %s', async (_how, command) => {
    const first = await present({ policy })
    const second = await present({ id: `${id}b`, policy })
    const before = await root('ls -laR /root; cat /etc/passwd')
    await person.login(first.certificatePath, command, login)
    expect(await absent({ policy })).toMatchObject({ account: 'kept' })
    expect(await root('ls -laR /root; cat /etc/passwd')).toEqual(before)
    expect((await person.login(first.certificatePath, 'true', login)).code).toBe(255)
    expect((await person.login(second.certificatePath, 'true', login)).code).toBe(0)
  })
})

describe('what was made', { timeout: 120_000 }, () => {
  it('is deleted by cleanup, whatever still runs; the home is put away and the uid spent', async () => {
    const { reply } = await present({ groups: ['dbadmins'] })
    await absent({ groups: ['dbadmins'] })
    await root(`echo mine >/home/${login}/file; addgroup ${login} developers; su -s /bin/sh ${login} -c 'sleep 800 &'`)
    await expect.poll(() => host.processesOf(reply.uid), SOON).toHaveLength(1)
    const result = await cleanup(person.link, runContext(), { login, policy: Policy.parse({}) })
    expect(result).toMatchObject({ account: 'deleted' })
    expect(await host.processesOf(reply.uid)).toEqual([])
    for (const file of ACCOUNT_FILES) expect(String(await files.read(file))).not.toMatch(new RegExp(`\\b${login}\\b`))
    expect((await root(`cat /home/.apono-connector/${login}.${reply.uid}/file`)).stdout).toBe('mine\n')
    await files.expectWellFormed()
    const again = await present({ generation: 3 })
    expect(again.reply.uid).toBeGreaterThan(reply.uid)
  })

  it('is no more after uninstall: the account files are what they were', async () => {
    const other = await startHost({ kind: 'busybox' })
    try {
      const all = () => other.exec('cat /etc/passwd /etc/shadow /etc/group; stat -c "%n %a %u %g %h" /etc/* | sort')
      const before = await all()
      const somebody = await makePerson(other)
      await somebody.present(onAsh({ login: 'dana', groups: ['dbadmins', 'deploy'] }))
      await somebody.present(onAsh({ login: 'eve', id: 'grt_eve', policy: { trust: 'home' } }))
      await somebody.absent(onAsh({ login: 'dana', groups: ['dbadmins', 'deploy'] }))
      await somebody.absent(onAsh({ login: 'eve', id: 'grt_eve', policy: { trust: 'home' } }))
      expect(await all()).not.toEqual(before)
      await uninstall(somebody.link, runContext(), { keepUids: false, homes: 'delete' })
      expect(await all()).toEqual(before)
    } finally {
      await other.stop()
    }
  })
})

it.each(['present', 'uninstall'] as const)(
  'the program for BusyBox is hardly larger than the other (%s)',
  (operation) => {
    const bytes = Buffer.byteLength(programFor(operation, 'busybox'))
    expect(bytes - Buffer.byteLength(programFor(operation))).toBeLessThan(2048)
  },
)
