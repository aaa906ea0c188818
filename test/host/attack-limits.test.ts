import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ensureAbsent } from '../../src/host/host-program.ts'
import type { HostLink } from '../../src/host/link.ts'
import { mustRun } from '../hosts/command.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { makePerson, openSshLink, type Person, runContext } from './person.ts'
import { expectGone } from './world.ts'

/**
 * A server on which nobody can start another process, root neither: a container's limit, or a kernel's. What is said of
 * an end is then true or not said, and nobody else is hurt.
 */
let host: TestHost
let person: Person
let link: HostLink
beforeAll(async () => {
  host = await startHost({ run: { processes: 1000 } })
  person = await makePerson(host)
  link = await openSshLink(host, `${scratchDirectory()}/mux`)
})
afterAll(() => host?.stop())

const limit = (processes: number) => mustRun('docker', ['update', '--pids-limit', String(processes), host.name])
/** Threads of the whole host; the three that count are not counted. */
const running = async (): Promise<number> => Number((await host.exec('ls -d /proc/[0-9]*/task/* | wc -l')).stdout) - 3

/** How many more processes there may be during a run, which needs about eight at a time. */
const ROOMS = [3, 5, 6, 7, 8, 9, 10, 20]

const policy = { rootProcesses: 'all' } as const

describe('where no process can be started', () => {
  it('because the person took all: nothing is confirmed, nobody else is hurt, and it ends once there is room', async () => {
    const friend = await person.present({ id: 'grt_friend', login: 'friend' })
    const { certificatePath, reply } = await person.present({ id: 'grt_full', login: 'full', policy })
    await limit((await running()) + 20)
    const hoard = `while ($n < 150) { $p = fork; if (!defined $p) { select undef, undef, undef, .005; next } if (!$p) { sleep 300; exit } $n++ } sleep 300`
    await person.login(certificatePath, `setsid nohup perl -e '${hoard}' >/dev/null 2>&1 </dev/null & true`, 'full')
    await expect.poll(() => host.exec('ls /; ls /').then(({ code }) => code), { timeout: 15_000 }).not.toBe(0)

    const end = (generation: number) => person.absent({ id: 'grt_full', login: 'full', generation, policy })
    for (const generation of [2, 3, 4]) await expect(end(generation)).rejects.toMatchObject({ retryable: true })
    await limit(1000)
    expect(await end(5)).toMatchObject({ processesLeft: 0, account: 'locked' })
    await expectGone(host, { person, login: 'full', uid: reply.uid, certificatePath })
    expect((await person.login(friend.certificatePath, 'true', 'friend')).code).toBe(0)
  })

  let told = 0
  it.each(ROOMS)('in the middle of a run, which has room for %i', async (room) => {
    const login = `room${room}`
    const id = `grt_${room}`
    const ended = await person.present({ id, login, groups: ['dbadmins', 'developers'], policy })
    const kept = await person.present({ id: `${id}b`, login, groups: ['developers'], policy })
    const end = (generation: number) =>
      ensureAbsent(link, runContext(), person.request({ id, login, generation, policy }, 'absent'))
    // The connection stands before the room is taken.
    expect((await link.exec('true', '', { timeoutMs: 10_000 })).exitCode).toBe(0)
    await limit((await running()) + room)
    const first = await end(2).catch((error: unknown) => error)
    await limit(1000)
    if (first instanceof Error) {
      expect(first).toMatchObject({ retryable: true })
      expect(await end(3)).toMatchObject({ account: 'kept' })
    } else {
      told++
    }
    const groups = await host.groupsOf(login)
    expect(groups).toEqual(expect.arrayContaining(['developers', 'apono-managed']))
    expect(groups).not.toContain('dbadmins')
    expect((await person.login(ended.certificatePath, 'true', login)).code).toBe(255)
    expect((await person.login(kept.certificatePath, 'true', login)).code).toBe(0)
  })

  it('only in a part of a run that says no more than that: what it concluded from the silence does not count', async () => {
    const grant = { id: 'grt_part', login: 'part' }
    await person.present(grant)
    await host.exec(`cp /usr/bin/mv /usr/bin/mv.real; rm /usr/bin/mv; cat >/usr/bin/mv <<'END'
#!/bin/sh
[ -e /run/forked ] || { : >/run/forked; echo 'sh: 0: Cannot fork' >&2; }
exec /usr/bin/mv.real "$@"
END
chmod 755 /usr/bin/mv`)
    await expect(person.absent(grant)).rejects.toMatchObject({ code: 'host_busy' })
    expect(await person.absent({ ...grant, generation: 3 })).toMatchObject({ account: 'locked' })
    await host.exec('mv.real /usr/bin/mv.real /usr/bin/mv')
  })

  it('and some had too little room and some had enough, or this looked at nothing', () => {
    expect(told).toBeGreaterThan(0)
    expect(told).toBeLessThan(ROOMS.length)
  })
})
