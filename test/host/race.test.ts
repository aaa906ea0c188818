import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { ensureAbsent, ensurePresent, type RunContext } from '../../src/host/host-program.ts'
import type { HostLink } from '../../src/host/link.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { type GrantOptions, makePerson, openSshLink, type Person, runContext } from './person.ts'
import { expectNobody } from './world.ts'

/**
 * Many at once: connectors with each other, ends with beginnings, an admin's tools with ours. Each connector has a
 * connection of its own, and repeats what may be repeated, as a control plane has it do.
 */
let host: TestHost
let person: Person
let connectors: HostLink[]
beforeAll(async () => {
  host = await startHost()
  person = await makePerson(host)
  connectors = await Promise.all([0, 1, 2, 3].map((n) => openSshLink(host, `${scratchDirectory()}/${n}`)))
  // The connections stand, and sshd knows our setting.
  await person.present({ id: 'grt_first', login: 'first' })
  for (const link of connectors) expect((await link.exec('true', '', { timeoutMs: 15_000 })).exitCode).toBe(0)
})
afterAll(() => host?.stop())

let serial = 0
let login = ''
let id = ''
beforeEach(() => {
  login = `rae${++serial}`
  id = `grt_x${serial}`
})

const ATTEMPTS = 5
const repeated = async <T>(act: () => Promise<T>): Promise<T> => {
  for (let attempt = 1; ; attempt++) {
    try {
      return await act()
    } catch (error) {
      if (attempt === ATTEMPTS || !(error instanceof Error && 'retryable' in error && error.retryable)) throw error
    }
  }
}

const connector = (n: number): HostLink => connectors[n % connectors.length] as HostLink
const grant = (n: number, options: GrantOptions, context: Partial<RunContext> = {}) => {
  const request = person.request(options, 'present')
  return repeated(() => ensurePresent(connector(n), { ...runContext(), ...context }, request))
}
const end = (n: number, options: GrantOptions, context: Partial<RunContext> = {}) => {
  const request = person.request({ generation: 2, ...options }, 'absent')
  return repeated(() => ensureAbsent(connector(n), { ...runContext(), ...context }, request))
}
const lines = async (command: string): Promise<string[]> =>
  (await host.exec(command)).stdout.split('\n').filter((line) => line !== '')
const twenty = Array.from({ length: 20 }, (_, n) => n)

describe('twenty grants at once', () => {
  it('to twenty logins: twenty accounts, numbers and lines', async () => {
    const replies = await Promise.all(
      twenty.map((n) => grant(n, { id: `${id}_${n}`, login: `${login}_${n}`, groups: ['dbadmins'] })),
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
    const of = (n: number) => ({ id: `${id}_${n}`, login, groups: n % 2 ? ['dbadmins'] : ['developers'] })
    const replies = await Promise.all(twenty.map((n) => grant(n, of(n))))
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

    await Promise.all(twenty.map((n) => end(n, of(n))))
    expect(await lines(`ls /etc/ssh/apono-connector/${login}`)).toEqual([])
    expect(await lines(`grep -l '^state=absent' /var/lib/apono-connector/grants/*.${id}_*`)).toHaveLength(20)
    expect(await host.groupsOf(login)).toEqual([login, 'apono-managed'])
    expect(await host.shadow(login)).toMatchObject({ locked: true, expires: '1' })
  })
})

describe('beginning and end that cross', () => {
  const settled = (acts: Promise<unknown>[]) => Promise.allSettled(acts)
  const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

  it.each([0, 15, 40, 80, 150])('come to the higher pair, whoever is first: %i ms apart', async (apart) => {
    const { createdLogin } = await grant(0, { id: `${id}other`, login })
    expect(createdLogin).toBe(true)
    const has = async () => (await lines(`grep -c ' apono:cp_test[.]${id}[.]' /etc/ssh/apono-connector/${login}`))[0]

    // The end is the higher pair.
    await settled([
      grant(0, { id, login, groups: ['dbadmins'] }),
      pause(apart).then(() => end(1, { id, login, generation: 2 })),
    ])
    expect({ apart, has: await has() }).toEqual({ apart, has: '0' })
    expect(await host.groupsOf(login)).not.toContain('dbadmins')

    // The beginning is: whichever comes first, what stands at the end is generation 4.
    await grant(0, { id, login, generation: 3, groups: ['dbadmins'] })
    await settled([
      pause(apart).then(() => end(0, { id, login, generation: 3, epoch: 1 })),
      grant(1, { id, login, generation: 4, groups: ['developers'] }),
      pause(apart / 2).then(() => end(2, { id, login, generation: 3 })),
    ])
    expect({ apart, has: await has() }).toEqual({ apart, has: expect.stringMatching(/^[1-9]$/) })
    expect(await host.groupsOf(login)).toContain('developers')
    expect(await host.groupsOf(login)).not.toContain('dbadmins')
    expect((await end(3, { id, login, generation: 5 })).account).toBe('kept')
  })

  it('a login that is just being established does not outlive the end', async () => {
    for (const wait of [0, 60, 120, 200, 300]) {
      const of = { id: `${id}_${wait}`, login: `${login}_${wait}` }
      const { certificatePath, reply } = await person.present(of)
      const logins = [0, 1, 2, 3].map(async (n) => {
        await pause(n * 50)
        return person.login(certificatePath, 'exec sleep 60', of.login)
      })
      await pause(wait)
      expect(await end(1, of)).toMatchObject({ processesLeft: 0, account: 'locked' })
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
      ...[0, 1, 2].map((n) => grant(n, { id: `${id}_${n}`, login })),
      ...[0, 1, 2].map((n) => grant(n + 1, { id: `${id}_${n}`, login }, other)),
    ])
    const won = outcomes.map(({ status }) => status === 'fulfilled')
    expect([won.slice(0, 3), won.slice(3)].map((three) => new Set(three).size)).toEqual([1, 1])
    expect(won[0]).not.toBe(won[3])
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'login_taken' })
    }
    // The loser's end of a grant that it never had ends nothing.
    const [loser, winner] = won[0] ? [other, {}] : [{}, other]
    await expect(end(0, { id: `${id}_9`, login }, loser)).resolves.toMatchObject({ account: 'kept', changed: false })
    expect(await lines(`grep -c . /etc/ssh/apono-connector/${login}`)).toEqual(['3'])
    await Promise.all([0, 1, 2].map((n) => end(n, { id: `${id}_${n}`, login }, winner)))
    expect(await host.shadow(login)).toMatchObject({ locked: true, expires: '1' })
  })
})

describe('an admin who changes accounts meanwhile', () => {
  /** Until /run/stop is there; says each thing that their own tool called done. */
  const admin = (body: string) =>
    host.exec(`n=0; while [ ! -e /run/stop ]; do n=$((n + 1)); ${body}; done`, { timeoutMs: 120_000 })

  it('loses nothing to us, nor we to them', async () => {
    await host.exec('rm -f /run/stop; groupadd ops')
    const admins = [
      admin('useradd -M adm$n && usermod -aG dbadmins,ops adm$n && echo adm$n'),
      admin('groupadd grp$n && usermod -aG grp$n nobody && echo grp$n; [ $n -lt 9 ] || groupdel grp$((n - 8))'),
    ]
    const of = (n: number) => ({ id: `${id}_${n}`, login: `${login}_${n}`, groups: ['dbadmins', 'ops'] })
    const eight = twenty.slice(0, 8)
    await Promise.all(eight.map((n) => grant(n, of(n))))
    await Promise.all(eight.filter((n) => n % 2).map((n) => end(n, of(n))))
    await host.exec('touch /run/stop')
    const [users = ''] = (await Promise.all(admins)).map(({ stdout }) => stdout)

    for (const name of ['dbadmins', 'ops']) {
      const members = (await host.getent('group', name))?.at(-1)?.split(',') ?? []
      const ours = eight.map((n) => members.includes(`${login}_${n}`))
      expect({ name, ours }).toEqual({ name, ours: eight.map((n) => n % 2 === 0) })
      expect(members).toEqual(expect.arrayContaining(users.trim().split('\n')))
    }
    expect((await host.exec('pwck -r -q; grpck -r')).stdout).not.toMatch(/duplicate|invalid/)
  })

  it('with gpasswd, which writes what it read before it had the lock: what we call done is done', async () => {
    await host.exec('rm -f /run/stop; useradd -M gus')
    const loops = [0, 1].map(() => admin('gpasswd -a gus deploy; sleep 0.1; gpasswd -d gus deploy'))
    const of = (n: number) => ({ id: `${id}_${n}`, login: `${login}_${n}`, groups: ['deploy'] })
    const eight = twenty.slice(0, 8)
    await Promise.all(eight.map((n) => grant(n, of(n))))
    await Promise.all(eight.filter((n) => n % 2).map((n) => end(n, of(n))))
    await host.exec('touch /run/stop')
    await Promise.all(loops)
    const members = (await host.getent('group', 'deploy'))?.at(-1)?.split(',') ?? []
    expect(eight.map((n) => members.includes(`${login}_${n}`))).toEqual(eight.map((n) => n % 2 === 0))
  })

  it('whose useradd takes the number that we picked is left alone, and we take the next', async () => {
    await host.exec(`mv /usr/sbin/useradd /usr/sbin/useradd.real; cat >/usr/sbin/useradd <<'END'
#!/bin/sh
# Somebody who is a moment faster, once.
case "$*" in *apono-connector*)
  [ -e /run/faster ] || { : >/run/faster; while [ $# -gt 1 ] && [ "$1" != -u ]; do set -- "$@" "$1"; shift; done; /usr/sbin/useradd.real -M -u "$2" faster; exit 4; } ;;
esac
exec /usr/sbin/useradd.real "$@"
END
chmod 755 /usr/sbin/useradd`)
    try {
      const { reply } = await person.present({ id, login })
      const faster = await host.passwd('faster')
      expect(faster).toBeDefined()
      expect(reply.uid).not.toBe(faster?.uid)
      const theirs = await host.shadow('faster')
      expect(await end(0, { id, login })).toMatchObject({ account: 'locked' })
      expect(await host.shadow('faster')).toEqual(theirs)
    } finally {
      await host.exec('mv /usr/sbin/useradd.real /usr/sbin/useradd')
    }
  })

  it('who gives a deleted login’s number to somebody new: that one is left alone, and the end is not confirmed', async () => {
    const { reply } = await person.present({ id, login })
    await host.exec(`userdel -r ${login}; useradd -m -u ${reply.uid} newcomer${serial}`)
    await host.exec(`setsid -f setpriv --reuid ${reply.uid} --clear-groups sleep 60 >/dev/null 2>&1 </dev/null`)
    const theirs = await host.shadow(`newcomer${serial}`)
    await expect(end(0, { id, login })).rejects.toMatchObject({
      code: 'revoke_incomplete',
      message: expect.stringContaining(`newcomer${serial}`),
    })
    expect(await host.shadow(`newcomer${serial}`)).toEqual(theirs)
    expect((await host.processesOf(reply.uid)).map(({ command }) => command)).toEqual(['sleep 60'])
    expect(await lines(`ls /etc/ssh/apono-connector/${login}`)).toEqual([])
  })
})
