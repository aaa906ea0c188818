import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { JobError } from '../../src/host/errors.ts'
import { ensureAbsent, ensurePresent } from '../../src/host/host-program.ts'
import type { CommandResult } from '../hosts/command.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { type AccountFiles, accountFiles } from './account-files.ts'
import { killableLink } from './kill-points.ts'
import { type GrantOptions, makePerson, type Person, runContext } from './person.ts'

/**
 * The account files of a BusyBox server while others change them too: an admin's tools without a pause, one that had begun
 * before us, one that died, and runs of ours that die.
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
  login = `elm${++serial}`
  id = `grt_e${serial}`
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

describe('beside others who change the same files', { timeout: 120_000 }, () => {
  it('gives twenty grants at once while an admin adds users: all are there, once', { timeout: 400_000 }, async () => {
    const grants = Array.from({ length: 20 }, (_, n) => ({
      id: `${id}-${n}`,
      login: `${login}x${n}`,
      groups: ['deploy'],
    }))
    // Until the grants are there: what is lost on either side is lost in the moment between two steps.
    const admin = host.exec(
      `n=0; until [ -e /run/given ] || [ $n -ge 2000 ]; do n=$((n + 1)); adduser -D -u $((3000 + n)) adm$n && addgroup adm$n developers || exit; sleep 0.02; done; echo $n`,
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
    await files.expectWellFormed()
    const ours = grants.map((grant) => grant.login)
    const shadow = new Map((await files.read('shadow')).map((line) => [line.split(':')[0], line]))
    expect(ours.map((each) => shadow.get(each))).toEqual(ours.map((each) => `${each}:*:::::::`))
    expect(added.filter((each) => !shadow.get(each)?.startsWith(`${each}:!:`))).toEqual([])
    const names = (await files.read('passwd')).map((line) => line.split(':')[0])
    expect(names).toEqual(expect.arrayContaining([...ours, ...added]))
    const members = new Map(
      (await files.read('group')).map((line) => [line.split(':')[0], line.split(/[:,]/).slice(3)]),
    )
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
    await files.expectWellFormed()
  })

  it.each(['group', 'passwd'])('catches up with a run that died before it came to /etc/%s', async (file) => {
    const holder = host.exec(`exec 8>/etc/${file}+; until [ -e /run/${file} ]; do sleep 0.1; done; rm /etc/${file}+`)
    await expect.poll(async () => (await host.exec(`ls /etc/${file}+`)).code, SOON).toBe(0)
    const dying = present({ groups: ['dbadmins'] }).catch((error: unknown) => error)
    await expect.poll(() => host.shadow(login), SOON).toMatchObject({ hash: '!*', expires: '1' })
    await expect
      .poll(async () => (await files.read('group')).some((line) => line.startsWith(`${login}:`)), SOON)
      .toBe(file === 'passwd')
    await root(`pkill -KILL -f '^/bin/sh -s'`)
    expect(await dying).toMatchObject({ retryable: true })
    expect(await host.passwd(login)).toBeUndefined()
    await root(`touch /run/${file}`)
    await holder
    const { certificatePath, reply } = await present({ groups: ['dbadmins'], generation: 2 })
    expect(await host.passwd(login)).toMatchObject({ uid: reply.uid, gid: reply.uid })
    expect((await person.login(certificatePath, 'true', login)).code).toBe(0)
    await files.expectWellFormed()
  })

  it('does not wait for a tool that died', async () => {
    await root('cd /etc && touch passwd+ group+ shadow+ && ln shadow .apono.shadow && ln shadow .apono.shadow.old')
    const { certificatePath } = await present({ groups: ['dbadmins'] })
    expect((await person.login(certificatePath, 'true', login)).code).toBe(0)
    await files.expectWellFormed()
  })

  it('does not push aside a tool at work, ends what it can, and comes through later', async () => {
    const { certificatePath, reply } = await present({ groups: ['dbadmins'] })
    const session = person.stay(certificatePath, login)
    await session.ready
    const tool = host.exec(`exec 8>/etc/shadow+; touch /run/at-work; until [ -e /run/done ]; do sleep 0.1; done
[ /proc/self/fd/8 -ef /etc/shadow+ ] && cp -p /etc/shadow /etc/shadow+ && mv /etc/shadow+ /etc/shadow`)
    await expect.poll(async () => (await host.exec('ls /run/at-work')).code, SOON).toBe(0)
    await expect(absent({ groups: ['dbadmins'] })).rejects.toMatchObject({ code: 'revoke_incomplete' })
    expect(await session.closed).toBe(255)
    expect(await host.processesOf(reply.uid)).toEqual([])
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
    await root('touch /run/done')
    expect(await tool).toMatchObject({ code: 0 })
    expect(await absent({ groups: ['dbadmins'] })).toMatchObject({ account: 'locked' })
    expect(await host.shadow(login)).toMatchObject({ hash: '!*', expires: '1' })
    await files.expectWellFormed()
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

it('leaves the files alone where the disk is full, and comes through later', { timeout: 120_000 }, async () => {
  const small = await startHost({
    kind: 'busybox',
    setup: 'cp -a /etc /var/etc && mount -t tmpfs -o size=1m etc /etc && cp -a /var/etc/. /etc',
    run: { capabilities: ['SYS_ADMIN'], securityOptions: ['seccomp=unconfined', 'apparmor=unconfined'] },
  })
  try {
    const full = await accountFiles(small)
    const somebody = await makePerson(small)
    // In `home` mode nothing of ours in /etc goes and makes room.
    const grant = onAsh({ policy: { trust: 'home' } })
    const { certificatePath, reply } = await somebody.present(grant)
    await somebody.login(certificatePath, 'setsid nohup sleep 600 >/dev/null 2>&1 </dev/null &', login)
    await small.exec('dd if=/dev/zero of=/etc/filler bs=1k; dd if=/dev/zero of=/etc/filled bs=1')
    const before = await small.exec('cat /etc/passwd /etc/shadow /etc/group')
    await expect(somebody.absent(grant)).rejects.toMatchObject({ code: 'revoke_incomplete' })
    expect(await small.exec('cat /etc/passwd /etc/shadow /etc/group')).toEqual(before)
    await full.expectWellFormed()
    expect(await small.processesOf(reply.uid)).toEqual([])
    await small.exec('rm /etc/filler /etc/filled')
    expect(await somebody.absent(grant)).toMatchObject({ account: 'locked' })
    expect(await small.shadow(login)).toMatchObject({ hash: '!*', expires: '1' })
  } finally {
    await small.stop()
  }
})

/** What a change of the account files is made of. */
const STEPS = ['lock_file', 'change_file', 'forget']

describe('killed before every step of a change of the account files', () => {
  it.each(['present', 'absent'] as const)(
    'it comes through when it is asked again (%s)',
    async (state) => {
      const several = await makePerson(host, join(scratchDirectory(), `bb-${state}`))
      const killable = killableLink(host, several.link, STEPS)
      const story = async (call: number): Promise<number> => {
        const name = `${login}${state.slice(0, 1)}${call}`
        const grant = onAsh({ id: name, login: name, groups: ['dbadmins'] })
        const wanted = several.request(grant, 'present')
        const give = () => ensurePresent(killable.link, runContext(), wanted)
        const take = () =>
          ensureAbsent(killable.link, runContext(), several.request({ ...grant, generation: 2 }, 'absent'))
        const act = async (): Promise<unknown> => (state === 'present' ? await give() : await take())
        await killable.live()
        if (state === 'absent') await give()
        if (call > 0) {
          await killable.dieAt(call)
          await expect(act()).rejects.toMatchObject({ code: 'interrupted' })
        }
        await killable.live()
        await act()
        const calls = await killable.calls()
        const groups = ['apono-managed', ...(state === 'present' ? ['dbadmins'] : []), name]
        expect((await host.groupsOf(name)).sort()).toEqual(groups.sort())
        expect(await host.shadow(name)).toMatchObject(
          state === 'present' ? { hash: '*', expires: '' } : { hash: '!*', expires: '1' },
        )
        await files.expectWellFormed()
        return calls
      }
      const calls = await story(0)
      expect(calls).toBeGreaterThan(5)
      for (let call = 1; call <= calls; call++) await story(call)
    },
    600_000,
  )
})
