import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { JobError } from '../../src/host/errors.ts'
import { cleanup, ensureAbsent, ensurePresent, inspect, uninstall } from '../../src/host/host-program.ts'
import { programFor } from '../../src/host/program-text.ts'
import { Policy } from '../../src/protocol/integration.ts'
import type { CommandResult } from '../hosts/command.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { killableLink } from './kill-points.ts'
import { type GrantOptions, makePerson, openSshLink, type Person, runContext } from './person.ts'

/**
 * A server as Alpine is one: BusyBox for everything, sshd without PAM. No tool there expires an account, so the program
 * edits the account files; what admins and their tools do to the same files meanwhile must survive, and so must ours.
 */
let host: TestHost
let person: Person
const original = new Map<string, string>()
/** These machines are small. */
const SOON = { timeout: 20_000, interval: 20 }
const FILES = ['passwd', 'shadow', 'group'] as const

beforeAll(async () => {
  host = await startHost({ kind: 'busybox' })
  for (const file of FILES) original.set(file, await read(file))
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

const read = async (file: string): Promise<string> => (await host.exec(['cat', `/etc/${file}`])).stdout
const lines = (text: string): string[] => text.split('\n').filter((line) => line !== '')

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

/** The account files as BusyBox, sshd and sudo need them: every line whole, no name twice, nothing left over. */
const expectWellFormed = async (): Promise<void> => {
  const fields = { passwd: 7, shadow: 9, group: 4 }
  for (const file of FILES) {
    const all = lines(await read(file))
    expect(all.filter((line) => line.split(':').length !== fields[file])).toEqual([])
    const names = all.map((line) => line.split(':')[0])
    expect(new Set(names).size).toBe(names.length)
    // What was there before we came stands there as it did, but for the members of the groups that are given.
    const before = lines(original.get(file) ?? '').filter((line) => !/^(dbadmins|developers|deploy):/.test(line))
    expect(all).toEqual(expect.arrayContaining(before))
  }
  const { stdout } = await root(
    "stat -c '%n %a %U:%G' /etc/passwd /etc/shadow /etc/group; ls -A /etc | grep -e '[+]$' -e '^[.]apono' || true",
  )
  expect(lines(stdout)).toEqual([
    '/etc/passwd 644 root:root',
    '/etc/shadow 640 root:shadow',
    '/etc/group 644 root:root',
  ])
}

/** As the control plane does: twenty at once may wait longer than one run does. */
const again = async <T>(act: () => Promise<T>): Promise<T> => {
  for (;;) {
    try {
      return await act()
    } catch (error) {
      if (!(error instanceof JobError && error.retryable)) throw error
    }
  }
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
    await expectWellFormed()
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
    await expectWellFormed()

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

describe('beside others who change the same files', { timeout: 120_000 }, () => {
  it('gives twenty grants at once while an admin adds users: all are there, once', { timeout: 400_000 }, async () => {
    const grants = Array.from({ length: 20 }, (_, n) => ({
      id: `${id}-${n}`,
      login: `${login}x${n}`,
      groups: ['deploy'],
    }))
    // Without a pause, until the grants are there: what is lost on either side is lost in the moment between two steps.
    const admin = host.exec(
      `n=0; until [ -e /run/given ] || [ $n -ge 2000 ]; do n=$((n + 1)); adduser -D -u $((3000 + n)) adm$n && addgroup adm$n developers || exit; done; echo $n`,
      { timeoutMs: 390_000 },
    )
    const results = await Promise.all(grants.map((grant) => again(() => present(grant)))).finally(() =>
      root('touch /run/given'),
    )
    const { code, stdout } = await admin
    expect(code).toBe(0)
    expect(Number(stdout)).toBeGreaterThan(20)
    const added = Array.from({ length: Number(stdout) }, (_, n) => `adm${n + 1}`)

    expect(new Set(results.map(({ reply }) => reply.uid)).size).toBe(20)
    await expectWellFormed()
    const ours = grants.map((grant) => grant.login)
    const shadow = new Map(lines(await read('shadow')).map((line) => [line.split(':')[0], line]))
    expect(ours.map((each) => shadow.get(each))).toEqual(ours.map((each) => `${each}:*:::::::`))
    expect(added.filter((each) => !shadow.get(each)?.startsWith(`${each}:!:`))).toEqual([])
    const names = (await read('passwd')).split('\n').map((line) => line.split(':')[0])
    expect(names).toEqual(expect.arrayContaining([...ours, ...added]))
    const members = new Map(lines(await read('group')).map((line) => [line.split(':')[0], line.split(/[:,]/).slice(3)]))
    expect([...members.keys()]).toEqual(expect.arrayContaining([...ours, ...added]))
    expect(members.get('apono-managed')).toEqual(expect.arrayContaining(ours))
    expect(members.get('deploy')).toEqual(expect.arrayContaining(ours))
    expect(members.get('developers')).toEqual(expect.arrayContaining(added))
  })

  it('mends what a tool that had begun before us puts back', async () => {
    const { certificatePath, reply } = await present()
    await root(`echo '${login}y:*' >/run/new && adduser -D ${login}y && touch /etc/shadow+`)
    // chpasswd has read-opened the file and waits for its lock; there it is stopped.
    const tool = host.exec('exec chpasswd -e </run/new')
    const waiting = () =>
      host.exec(
        `for p in /proc/[0-9]*; do case $(tr '\\0' ' ' <$p/cmdline) in chpasswd*) ls -l $p/fd | grep -q '/etc/shadow$' && kill -STOP \${p#/proc/} && exit 0 ;; esac; done 2>/dev/null; exit 1`,
      )
    await expect.poll(async () => (await waiting()).code, SOON).toBe(0)
    await root('rm /etc/shadow+')

    const ending = absent()
    await expect.poll(async () => (await host.shadow(login))?.expires, SOON).toBe('1')
    await root(
      `for p in /proc/[0-9]*; do case $(tr '\\0' ' ' <$p/cmdline) in chpasswd*) kill -CONT \${p#/proc/} ;; esac; done 2>/dev/null`,
    )
    expect(await tool).toMatchObject({ code: 0 })
    expect(await ending).toMatchObject({ account: 'locked', processesLeft: 0 })
    expect(await host.shadow(login)).toMatchObject({ hash: '!*', expires: '1' })
    expect(await host.shadow(`${login}y`)).toMatchObject({ hash: '*' })
    expect(await host.processesOf(reply.uid)).toEqual([])
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
    await expectWellFormed()
  })

  it.each(['group', 'passwd'])('catches up with a run that died before it came to /etc/%s', async (file) => {
    const holder = host.exec(`exec 8>/etc/${file}+; until [ -e /run/${file} ]; do sleep 0.1; done; rm /etc/${file}+`)
    await expect.poll(async () => (await host.exec(`ls /etc/${file}+`)).code, SOON).toBe(0)
    const dying = present({ groups: ['dbadmins'] }).catch((error: unknown) => error)
    await expect.poll(() => host.shadow(login), SOON).toMatchObject({ hash: '!*', expires: '1' })
    await expect.poll(async () => (await read('group')).includes(`\n${login}:`), SOON).toBe(file === 'passwd')
    await root(`pkill -KILL -f '^/bin/sh -s'`)
    expect(await dying).toMatchObject({ retryable: true })
    expect(await host.passwd(login)).toBeUndefined()
    await root(`touch /run/${file}`)
    await holder
    const { certificatePath, reply } = await present({ groups: ['dbadmins'], generation: 2 })
    expect(await host.passwd(login)).toMatchObject({ uid: reply.uid, gid: reply.uid })
    expect((await person.login(certificatePath, 'true', login)).code).toBe(0)
    await expectWellFormed()
  })

  it('waits for a tool at work, and not for one that died', async () => {
    await root('cd /etc && touch passwd+ group+ shadow+ && ln shadow .apono.shadow && ln shadow .apono.shadow.old')
    const { certificatePath } = await present({ groups: ['dbadmins'] })
    expect((await person.login(certificatePath, 'true', login)).code).toBe(0)
    await expectWellFormed()

    const tool = host.exec(
      'exec 8>/etc/shadow+; touch /run/at-work; until [ -e /run/done ]; do sleep 0.1; done; cp -p /etc/shadow /etc/shadow+; mv /etc/shadow+ /etc/shadow',
    )
    await expect.poll(async () => (await host.exec('ls /run/at-work')).code, SOON).toBe(0)
    const ending = absent({ groups: ['dbadmins'] })
    // Long enough for a lock that nobody has to be taken for dead.
    await root('sleep 3; ls /etc/shadow+')
    await root('touch /run/done')
    await tool
    expect(await ending).toMatchObject({ account: 'locked' })
    expect(await host.shadow(login)).toMatchObject({ hash: '!*', expires: '1' })
    await expectWellFormed()
  })

  it.each(['ln -s /root/shadow /etc/shadow', 'cp /root/shadow /etc/shadow && chown apono /etc/shadow'])(
    'changes no file that is not a file of root’s: %s',
    async (command) => {
      await present()
      await root(`cp -p /etc/shadow /root/shadow && rm /etc/shadow && ${command}`)
      try {
        const before = await root('ls -l /root/shadow /etc/shadow; cat /root/shadow')
        await expect(absent()).rejects.toMatchObject({ code: 'revoke_incomplete' })
        expect(await root('ls -l /root/shadow /etc/shadow; cat /root/shadow')).toEqual(before)
      } finally {
        await root('rm /etc/shadow && mv /root/shadow /etc/shadow')
      }
      expect(await absent()).toMatchObject({ account: 'locked' })
    },
  )
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
    for (const file of FILES) expect(await read(file)).not.toMatch(new RegExp(`\\b${login}\\b`))
    expect((await root(`cat /home/.apono-connector/${login}.${reply.uid}/file`)).stdout).toBe('mine\n')
    await expectWellFormed()
    const again = await present({ generation: 3 })
    expect(again.reply.uid).toBeGreaterThan(reply.uid)
  })

  it('is no more after uninstall: the account files are what they were', async () => {
    const other = await startHost({ kind: 'busybox' })
    try {
      const files = () => other.exec('cat /etc/passwd /etc/shadow /etc/group; stat -c "%n %a %u %g %h" /etc/* | sort')
      const before = await files()
      const somebody = await makePerson(other)
      await somebody.present(onAsh({ login: 'dana', groups: ['dbadmins', 'deploy'] }))
      await somebody.present(onAsh({ login: 'eve', id: 'grt_eve', policy: { trust: 'home' } }))
      await somebody.absent(onAsh({ login: 'dana', groups: ['dbadmins', 'deploy'] }))
      await somebody.absent(onAsh({ login: 'eve', id: 'grt_eve', policy: { trust: 'home' } }))
      expect(await files()).not.toEqual(before)
      await uninstall(somebody.link, runContext(), { keepUids: false, homes: 'delete' })
      expect(await files()).toEqual(before)
    } finally {
      await other.stop()
    }
  })
})

describe('killed before every change that it makes', () => {
  it.each(['present', 'absent'] as const)(
    'it comes through when it is asked again (%s)',
    async (state) => {
      const killable = killableLink(host, person.link)
      const story = async (call: number | undefined): Promise<number> => {
        const grant = onAsh({ id: `${id}-${call}`, login: `${login}k${call ?? ''}`, groups: ['dbadmins', 'deploy'] })
        const wanted = person.request(grant, 'present')
        const certificate = await person.keep(wanted.certificate)
        const give = () => ensurePresent(killable.link, runContext(), wanted)
        const take = () =>
          ensureAbsent(killable.link, runContext(), person.request({ generation: 2, ...grant }, 'absent'))
        const act = async (): Promise<unknown> => (state === 'present' ? await give() : await take())
        await killable.live()
        if (state === 'absent') await give()
        if (call !== undefined) {
          await killable.dieAt(call)
          await expect(act()).rejects.toMatchObject({ code: 'interrupted' })
        }
        await killable.live()
        await act()
        const calls = await killable.calls()
        const shell = await person.login(certificate, 'id -Gn', grant.login)
        if (state === 'present') {
          expect(shell.stdout.trim().split(' ').sort()).toEqual(
            ['apono-managed', grant.login, 'dbadmins', 'deploy'].sort(),
          )
          await person.absent({ ...grant, generation: 2 })
        } else expect(shell.code).toBe(255)
        expect(await host.shadow(grant.login ?? '')).toMatchObject({ hash: '!*', expires: '1' })
        expect(await host.groupsOf(grant.login ?? '')).toEqual([grant.login, 'apono-managed'])
        await expectWellFormed()
        return calls
      }
      const calls = await story(undefined)
      expect(calls).toBeGreaterThan(10)
      for (let call = 1; call <= calls; call++) await story(call)
    },
    600_000,
  )
})

it.each(['present', 'uninstall'])('the program for BusyBox is hardly larger than the other (%s)', (operation) => {
  const bytes = Buffer.byteLength(programFor(operation, 'busybox'))
  expect(bytes - Buffer.byteLength(programFor(operation))).toBeLessThan(2048)
})
