import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { ensurePresent, inspect } from '../../src/host/host-program.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson, openSshLink, type Person, runContext } from './person.ts'

let host: TestHost
let person: Person
beforeAll(async () => {
  host = await startHost()
})
afterAll(() => host?.stop())

/** Every test has logins and grants of its own on the one server. */
let serial = 0
let login = ''
let id = ''
beforeEach(async () => {
  login = `dana${++serial}`
  id = `grt_${serial}`
  person = await makePerson(host)
})

const expectedUids = (uid: number | undefined): boolean => uid !== undefined && uid >= 20_000 && uid <= 59_999

describe('ensure present', () => {
  it('makes a login that gets in by certificate and belongs to the group', async () => {
    const { reply, certificatePath } = await person.present({ id, login, groups: ['dbadmins'] })
    expect(reply).toMatchObject({ createdLogin: true, groupsAdded: ['dbadmins'], trust: 'root_file', changed: true })

    const { code, stdout, stderr } = await person.login(certificatePath, 'id -un; id -Gn; stat -c %a ~', login)
    expect(stderr).toBe('')
    expect(code).toBe(0)
    const [name, groups = '', mode] = stdout.trim().split('\n')
    expect(name).toBe(login)
    expect(groups.split(' ')).toEqual(expect.arrayContaining(['dbadmins', 'apono-managed']))
    expect(mode).toBe('700')
    const account = await host.passwd(login)
    expect(expectedUids(account?.uid)).toBe(true)
    expect(account?.uid).toBe(reply.uid)
    expect((await host.shadow(login))?.hash).toBe('*')
  })

  it('asks sshd again for a login that is on when its files or the groups have changed, and as often as it says no', async () => {
    const setting = '/etc/ssh/sshd_config.d/70-site.conf'
    await person.present({ id, login, groups: ['dbadmins'] })
    try {
      await host.exec(`echo 'AllowUsers apono' >${setting}`)
      for (const _ of [1, 2]) {
        await expect(person.present({ id, login, groups: ['dbadmins'] })).rejects.toMatchObject({
          code: 'login_not_allowed',
        })
      }
      await host.exec(`echo 'DenyGroups deploy' >${setting}`)
      await person.present({ id, login, groups: ['dbadmins'] })
      const other = { id: `${id}_deploy`, login, groups: ['deploy'] }
      for (const _ of [1, 2]) await expect(person.present(other)).rejects.toMatchObject({ code: 'login_not_allowed' })
      await person.absent(other)
    } finally {
      await host.exec(`rm -f ${setting}`)
    }
    const { certificatePath } = await person.present({ id, login, groups: ['dbadmins'] })
    expect((await person.login(certificatePath, 'true', login)).code).toBe(0)
    // Only then: nobody asks it here.
    await host.exec(`mv /usr/sbin/sshd /usr/sbin/sshd.real
      printf '#!/bin/sh\\n[ "$1" != -T ] || exit 255\\nexec sshd.real "$@"\\n' >/usr/sbin/sshd; chmod 755 /usr/sbin/sshd`)
    await person.present({ id, login, groups: ['dbadmins'] })
    await host.exec('mv /usr/sbin/sshd.real /usr/sbin/sshd')
  })

  it('lets nobody in without the certificate, or with keys of the login’s own home', async () => {
    const { certificatePath } = await person.present({ id, login })
    expect((await person.login(undefined, 'true', login)).code).toBe(255)
    await person.login(
      certificatePath,
      `umask 077; mkdir .ssh; echo '${person.key.publicKey}' > .ssh/authorized_keys`,
      login,
    )
    expect((await person.login(undefined, 'true', login)).code).toBe(255)
    expect((await person.login(certificatePath, 'true', login)).code).toBe(0)
  })

  it('leaves the connector’s own way in, and live sessions, alone when sshd is reloaded', async () => {
    const other = await startHost()
    try {
      const first = await makePerson(other)
      await first.present({ login: 'eve' })
      await other.exec('rm /etc/ssh/sshd_config.d/00-apono-connector.conf')
      const { certificatePath } = await first.present({ login: 'eve', generation: 2 })
      expect((await first.login(certificatePath, 'true', 'eve')).code).toBe(0)
      expect(await other.exec('cat /etc/ssh/sshd_config.d/00-apono-connector.conf')).toMatchObject({ code: 0 })
    } finally {
      await other.stop()
    }
  })

  it('does nothing and says the same when the same job comes again', async () => {
    const { reply, request } = await person.present({ id, login, groups: ['dbadmins'] })
    const before = await host.exec('cat /var/lib/apono-connector/grants/* /etc/shadow | sha256sum')
    const again = await ensurePresent(person.link, runContext(), request)
    expect(again).toEqual({ ...reply, changed: false })
    expect(await host.exec('cat /var/lib/apono-connector/grants/* /etc/shadow | sha256sum')).toEqual(before)
  })

  it('keeps the certificate in hand working through an extension', async () => {
    const first = await person.present({ id, login, seconds: 120 })
    const second = await person.present({ id, login, generation: 2, seconds: 600 })
    expect((await person.login(first.certificatePath, 'true', login)).code).toBe(0)
    expect((await person.login(second.certificatePath, 'true', login)).code).toBe(0)
  })

  it('restores a lost trust line from the ledger where the control plane holds the certificate', async () => {
    const { certificatePath, reply } = await person.present({ id, login })
    await host.exec(`rm /etc/ssh/apono-connector/${login}`)
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
    await person.present({ id, login, issue: false, hostId: reply.hostId })
    expect((await person.login(certificatePath, 'true', login)).code).toBe(0)
  })

  it('never gives a uid twice', async () => {
    const { reply } = await person.present({ id, login })
    await person.absent({ id, login })
    await host.exec(`userdel -r ${login}`)
    const again = await person.present({ id, login, generation: 3 })
    expect(again.reply.uid).not.toBe(reply.uid)
  })

  it('writes the trust line as the person in home mode', async () => {
    const { certificatePath, reply } = await person.present({ id, login, policy: { trust: 'home' } })
    expect(reply.trust).toBe('home')
    const { stdout } = await host.exec(
      `stat -c '%U %a' /home/${login}/.ssh/authorized_keys; ls /etc/ssh/apono-connector`,
    )
    expect(stdout.split('\n')[0]).toBe(`${login} 600`)
    expect(stdout).not.toContain(`\n${login}\n`)
    // On a server whose drop-in keeps sshd out of other logins' homes.
    expect((await person.login(certificatePath, 'true', login)).code).toBe(0)
  })
})

describe('ensure present refuses, and changes nothing', () => {
  const snapshot = () =>
    host.exec('cat /etc/passwd /etc/group /etc/shadow; ls -R /home /etc/ssh /var/lib/apono-connector')
  const refused = async (code: string, act: () => Promise<unknown>) => {
    const before = await snapshot()
    await expect(act()).rejects.toMatchObject({ code })
    expect(await snapshot()).toEqual(before)
  }
  beforeAll(async () => {
    await (await makePerson(host)).present({ id: 'grt_first', login: 'first' })
  })

  it('a group that does not exist', () =>
    refused('group_missing', () => person.present({ id, login, groups: ['dbadmins', 'nosuch'] })))
  it('an account that somebody else made', async () => {
    await host.exec(`useradd -m ${login}`)
    await refused('login_exists', () => person.present({ id, login }))
  })
  it('root, a system account, the connection user', async () => {
    await refused('login_system', () => person.present({ id, login: 'root' }))
    await refused('login_system', () => person.present({ id, login: 'daemon' }))
    await refused('login_system', () => person.present({ id, login: 'apono' }))
  })
  it('a home that already exists', async () => {
    await host.exec(`mkdir /home/${login}`)
    await refused('home_exists', () => person.present({ id, login }))
  })
  it('a login of another person', () =>
    refused('login_taken', () => person.present({ id, login: 'first', person: 'mallory@example.com' })))
  it('a grant whose end has passed', () =>
    refused('expired', async () => {
      const { request } = { request: person.request({ id, login, seconds: 1 }, 'present') }
      request.grant.notAfter = new Date(Date.now() - 5000).toISOString()
      await ensurePresent(person.link, runContext(), request)
    }))
  it('a server whose clock is off', () =>
    refused('clock_skew', () =>
      ensurePresent(person.link, runContext(Date.now() - 120_000), person.request({ id, login }, 'present')),
    ))
  it('a shell that is not there', () =>
    refused('shell_missing', () => person.present({ id, login, policy: { shell: '/bin/nosuch' } })))
  it('names that are not names', async () => {
    for (const bad of ['Dana', 'a;b', 'root\n', 'x'.repeat(40), '-x', '../x', 'a b', '']) {
      await refused('invalid_grant', () => person.present({ id, login: bad }))
    }
  })
  it('a certificate that the ledger lost', () =>
    refused('ledger_lost', () => person.present({ id, login, issue: false })))
})

describe('an sshd that refuses our setting', () => {
  const setup = `mv /usr/sbin/sshd /usr/sbin/sshd.real
cat >/usr/sbin/sshd <<'END'
#!/bin/sh
case " $* " in *' -t '*) [ ! -e /etc/ssh/sshd_config.d/00-apono-connector.conf ] || { echo 'bad setting' >&2; exit 255; } ;; esac
exec /usr/sbin/sshd.real "$@"
END
chmod 755 /usr/sbin/sshd`

  it('has it taken back, lets others in as before, and the account stays off', async () => {
    const strict = await startHost({ setup })
    try {
      const somebody = await makePerson(strict)
      await expect(somebody.present({ login: 'eve' })).rejects.toMatchObject({
        code: 'sshd_refused_config',
        message: expect.stringContaining('bad setting'),
      })
      expect((await strict.exec('ls /etc/ssh/sshd_config.d')).stdout).toBe('')
      expect(await strict.shadow('eve')).toMatchObject({ expires: '1' })
      expect(await somebody.absent({ login: 'eve' })).toMatchObject({ account: 'locked' })
    } finally {
      await strict.stop()
    }
  })
})

describe('ensure absent', () => {
  it('ends sessions and processes, takes the group, locks the account, and proves it', async () => {
    const { certificatePath, reply } = await person.present({ id, login, groups: ['dbadmins'] })
    const session = person.stay(certificatePath, login)
    await session.ready
    await person.login(
      certificatePath,
      'setsid nohup sleep 600 >/dev/null 2>&1 & echo "* * * * * true" | crontab -',
      login,
    )
    expect((await host.processesOf(reply.uid)).length).toBeGreaterThan(2)

    const result = await person.absent({ id, login, groups: ['dbadmins'] })
    expect(result).toMatchObject({
      groupsRemoved: ['dbadmins'],
      sessionsEnded: 1,
      processesLeft: 0,
      account: 'locked',
      changed: true,
      assurance: 'observed',
    })
    expect(result.residue).toContainEqual({ kind: 'crontab', detail: '1 lines', removed: true })

    expect(await session.closed).toBe(255)
    expect(await host.processesOf(reply.uid)).toEqual([])
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
    expect(await host.groupsOf(login)).not.toContain('dbadmins')
    const shadow = await host.shadow(login)
    expect(shadow).toMatchObject({ expires: '1' })
    expect(shadow?.hash).toMatch(/^!/)
    expect((await host.exec(`crontab -u ${login} -l`)).code).not.toBe(0)
  })

  it('gives the recorded proof again to a repeat', async () => {
    await person.present({ id, login, groups: ['dbadmins'] })
    const result = await person.absent({ id, login, groups: ['dbadmins'] })
    const again = await person.absent({ id, login, groups: ['dbadmins'] })
    expect(again).toEqual({ ...result, changed: false })
  })

  it('leaves a tombstone that no delayed grant rises over', async () => {
    const result = await person.absent({ id, login })
    expect(result).toMatchObject({ account: 'deleted', changed: false, processesLeft: 0 })
    await expect(person.present({ id, login, generation: 1 })).rejects.toMatchObject({
      code: 'superseded',
      recorded: { generation: 2 },
    })
    await expect(person.present({ id, login, generation: 2 })).rejects.toMatchObject({ code: 'superseded' })
    expect(await host.passwd(login)).toBeUndefined()
  })

  it('refuses a lower pair and changes nothing', async () => {
    const { certificatePath } = await person.present({ id, login, generation: 5, groups: ['dbadmins'] })
    await expect(person.absent({ id, login, generation: 4 })).rejects.toMatchObject({ code: 'superseded' })
    expect((await person.login(certificatePath, 'id -Gn', login)).stdout).toContain('dbadmins')
  })

  it('touches no account that we did not make', async () => {
    await host.exec(`useradd -m -u 1${serial}50 ${login} && usermod -aG dbadmins ${login}`)
    const before = await host.exec('cat /etc/passwd /etc/group /etc/shadow')
    expect(await person.absent({ id, login, groups: ['dbadmins'] })).toMatchObject({ account: 'kept', changed: false })
    expect(await host.exec('cat /etc/passwd /etc/group /etc/shadow')).toEqual(before)
  })

  it('leaves exactly the rights of another live grant, and ends what ran with more', async () => {
    const first = await person.present({ id, login, groups: ['dbadmins', 'developers'] })
    const second = await person.present({ id: `${id}b`, login, groups: ['developers', 'deploy'] })
    const session = person.stay(second.certificatePath, login)
    await session.ready

    const result = await person.absent({ id, login, groups: ['dbadmins', 'developers'] })
    expect(result).toMatchObject({ account: 'kept', groupsRemoved: ['dbadmins'], processesLeft: 0 })
    expect(await session.closed).toBe(255)
    expect((await person.login(first.certificatePath, 'true', login)).code).toBe(255)
    const { stdout } = await person.login(second.certificatePath, 'id -Gn', login)
    expect(stdout.trim().split(' ')).toEqual(expect.arrayContaining(['developers', 'deploy']))
    expect(stdout).not.toContain('dbadmins')
  })

  it('does not take a membership that an admin gave', async () => {
    await person.present({ id, login })
    await host.exec(`usermod -aG developers ${login}`)
    await person.present({ id: `${id}b`, login, groups: ['developers'] })
    await person.absent({ id: `${id}b`, login, groups: ['developers'] })
    expect(await host.groupsOf(login)).toContain('developers')
  })

  it('keeps the account usable under the policy keep, with no way in', async () => {
    const policy = { onRevoke: 'keep' } as const
    const { certificatePath } = await person.present({ id, login, groups: ['dbadmins'], policy })
    expect(await person.absent({ id, login, groups: ['dbadmins'], policy })).toMatchObject({ account: 'kept' })
    expect(await host.shadow(login)).toMatchObject({ hash: '*', expires: '' })
    expect(await host.groupsOf(login)).not.toContain('dbadmins')
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
  })

  it('brings the login back for a new grant, with nothing of the old one', async () => {
    const first = await person.present({ id, login, groups: ['dbadmins'] })
    await person.absent({ id, login, groups: ['dbadmins'] })
    const second = await person.present({ id: `${id}b`, login })
    expect(second.reply).toMatchObject({ createdLogin: false, uid: first.reply.uid })
    expect((await person.login(first.certificatePath, 'true', login)).code).toBe(255)
    const { stdout } = await person.login(second.certificatePath, 'id -Gn', login)
    expect(stdout).not.toContain('dbadmins')
  })

  it('ends root processes of the person’s sessions', async () => {
    await host.exec(
      `echo 'dbadmins ALL=(ALL) NOPASSWD:ALL' | EDITOR='tee' visudo -q -f /etc/sudoers.d/dbadmins >/dev/null; printf '%%dbadmins ALL=(ALL) NOPASSWD:ALL\\n' > /etc/sudoers.d/dbadmins; chmod 440 /etc/sudoers.d/dbadmins`,
    )
    const { certificatePath, reply } = await person.present({ id, login, groups: ['dbadmins'] })
    const session = person.stay(certificatePath, login)
    await session.ready
    session.write('sudo sleep 700\n')
    await expect
      .poll(async () => (await host.processesOf(reply.uid)).some((p) => p.command.startsWith('sleep 700')))
      .toBe(true)
    const result = await person.absent({ id, login, groups: ['dbadmins'] })
    expect(result).toMatchObject({ processesLeft: 0, assurance: 'root_was_possible' })
    expect(await host.processesOf(reply.uid)).toEqual([])
  })

  it('gets rid of the home-mode line although the person shut the folder', async () => {
    const { certificatePath } = await person.present({ id, login, policy: { trust: 'home' } })
    await person.login(certificatePath, 'chmod 500 .ssh; chmod 400 .ssh/authorized_keys', login)
    const result = await person.absent({ id, login, policy: { trust: 'home' } })
    expect(result).toMatchObject({ account: 'locked' })
    expect((await host.exec(`cat /home/${login}/.ssh/authorized_keys`)).stdout).not.toContain('apono:')
  })
})

describe('the ledger', () => {
  it('refuses a job for another machine', async () => {
    await person.present({ id, login })
    await expect(person.present({ id, login, generation: 2, hostId: 'h_other' })).rejects.toMatchObject({
      code: 'wrong_host',
    })
    await expect(person.absent({ id, login, hostId: 'h_other' })).rejects.toMatchObject({ code: 'wrong_host' })
  })

  it('of a cloned machine is foreign, and its logins are dead', async () => {
    const clone = await startHost()
    try {
      const somebody = await makePerson(clone)
      const { certificatePath } = await somebody.present({ login: 'eve' })
      await clone.exec('echo 0123456789abcdef0123456789abcdef > /etc/machine-id')
      await expect(somebody.present({ login: 'eve', generation: 2 })).rejects.toMatchObject({ code: 'ledger_foreign' })
      expect((await somebody.login(certificatePath, 'true', 'eve')).code).not.toBe(0)
    } finally {
      await clone.stop()
    }
  })

  it('of a newer format is left alone by whoever does not know it', async () => {
    const newer = await startHost()
    try {
      const somebody = await makePerson(newer)
      const { certificatePath } = await somebody.present({ login: 'eve' })
      await newer.exec(`sed -i 's/^format=.*/format=99/' /var/lib/apono-connector/ledger`)
      const before = await newer.exec('cat /etc/passwd /etc/shadow /etc/group; cat /var/lib/apono-connector/*/*')
      const code = 'ledger_newer'
      await expect(somebody.present({ login: 'eve', generation: 2 })).rejects.toMatchObject({ code })
      await expect(somebody.absent({ login: 'eve', generation: 3 })).rejects.toMatchObject({ code })
      await expect(inspect(somebody.link, runContext())).rejects.toMatchObject({ code })
      expect(await newer.exec('cat /etc/passwd /etc/shadow /etc/group; cat /var/lib/apono-connector/*/*')).toEqual(
        before,
      )
      expect((await somebody.login(certificatePath, 'true', 'eve')).code).toBe(0)
    } finally {
      await newer.stop()
    }
  })

  it('is refused where somebody else can write', async () => {
    const open = await startHost({ setup: 'mkdir -m 777 /var/lib/apono-connector' })
    try {
      const somebody = await makePerson(open)
      await expect(somebody.present({ login: 'eve' })).rejects.toMatchObject({ code: 'ledger_unsafe' })
      expect(await open.passwd('eve')).toBeUndefined()
    } finally {
      await open.stop()
    }
  })
})

describe('inspect', () => {
  it('tells what it sees and changes nothing', async () => {
    const fresh = await startHost()
    try {
      const before = await fresh.exec('ls -lR /etc /var/lib /home | sha256sum')
      const result = await inspect(await openSshLink(fresh), runContext())
      expect(result).toMatchObject({
        hostId: null,
        os: { id: 'debian', versionId: '12' },
        sudo: { ok: true, flavour: 'sudo' },
        trust: ['root_file', 'home'],
        ledger: [],
        problems: [],
      })
      expect(result.groups).toContain('dbadmins')
      expect(Math.abs(result.clockSkewMs)).toBeLessThan(5000)
      expect(await fresh.exec('ls -lR /etc /var/lib /home | sha256sum')).toEqual(before)
    } finally {
      await fresh.stop()
    }
  })

  it('sees a trust line that somebody removed', async () => {
    await person.present({ id, login })
    const link = await openSshLink(host)
    const entry = async () => (await inspect(link, runContext())).ledger.find(({ grantId }) => grantId === id)
    expect(await entry()).toMatchObject({ state: 'present', intact: true })
    await host.exec(`rm /etc/ssh/apono-connector/${login}`)
    expect(await entry()).toMatchObject({ state: 'present', intact: false })
  })
})
