import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { inspect } from '../../src/host/host-program.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson, type Person, runContext } from './person.ts'

/**
 * The end of a grant with nobody else alive: after `present` nobody talks to these servers until everything is over.
 */
const UNITS = '/etc/systemd/system/apono-connector-expiry'
const PROGRAM = '/var/lib/apono-connector/program'

/** What stands on the server for the timer. */
const timerFiles = async (host: TestHost): Promise<string[]> => {
  const { stdout } = await host.exec(
    `ls ${UNITS}.timer ${UNITS}.service /etc/cron.d/apono-connector ${PROGRAM} 2>/dev/null`,
  )
  return stdout.trim().split('\n').filter(Boolean)
}

const livesOn = async (host: TestHost, person: Person, login: string, seconds: number) => {
  const grant = { id: `grt_${login}`, login, groups: ['dbadmins'], seconds }
  const { certificatePath, reply } = await person.present(grant)
  const session = person.stay(certificatePath, login)
  await session.ready
  await person.login(certificatePath, 'setsid nohup sleep 900 >/dev/null 2>&1 </dev/null &', login)
  expect((await host.processesOf(reply.uid)).length).toBeGreaterThan(2)
  return { grant, certificatePath, reply, session }
}

const isOver = async (host: TestHost, person: Person, life: Awaited<ReturnType<typeof livesOn>>) => {
  const { grant, certificatePath, reply, session } = life
  expect(await session.closed).toBe(255)
  await expect.poll(() => host.processesOf(reply.uid), { timeout: 10_000 }).toEqual([])
  await expect.poll(async () => (await host.shadow(grant.login))?.expires, { timeout: 10_000 }).toBe('1')
  expect(await host.groupsOf(grant.login)).not.toContain('dbadmins')
  expect((await host.exec(`ls /etc/ssh/apono-connector/${grant.login}`)).code).not.toBe(0)
  expect((await person.login(certificatePath, 'true', grant.login)).code).toBe(255)
}

describe('with systemd', () => {
  let host: TestHost
  let person: Person
  beforeAll(async () => {
    host = await startHost({ kind: 'systemd' })
    person = await makePerson(host)
  })
  afterAll(() => host?.stop())

  it('the server ends access, sessions, groups and account by itself, and its timer removes itself', async () => {
    const short = await livesOn(host, person, 'short', 12)
    const long = await livesOn(host, person, 'long', 600)
    expect(short.reply.onHostExpiry).toBe('full')
    expect((await inspect(person.link, runContext())).onHostExpiry).toBe('full')
    expect(await timerFiles(host)).toEqual([`${UNITS}.service`, `${UNITS}.timer`, PROGRAM])
    expect((await host.exec(`stat -c '%U %a' ${PROGRAM}`)).stdout.trim()).toBe('root 600')

    await isOver(host, person, short)
    // Whose time is not over lives on, and so does the timer.
    expect((await person.login(long.certificatePath, 'id -Gn', 'long')).stdout).toContain('dbadmins')
    expect(await timerFiles(host)).toHaveLength(3)

    // The proof of what the timer did is what the control plane is told when it is back.
    const result = await person.absent({ ...short.grant, generation: 2 })
    expect(result).toMatchObject({ changed: false, sessionsEnded: 1, processesLeft: 0, account: 'locked' })
    expect(result.groupsRemoved).toEqual(['dbadmins'])

    await person.absent(long.grant)
    await expect.poll(() => timerFiles(host), { timeout: 25_000 }).toEqual([])
    expect((await host.exec('systemctl list-timers --all')).stdout).not.toContain('apono')
  }, 90_000)

  it('an extension that was recorded wins over the timer', async () => {
    const { grant, certificatePath } = await livesOn(host, person, 'longer', 8)
    const extended = await person.present({ ...grant, generation: 2, seconds: 600 })
    await expect
      .poll(async () => (await person.login(certificatePath, 'true', 'longer')).code, {
        timeout: 15_000,
        interval: 500,
      })
      .toBe(255)
    const lastRun = async () =>
      Number((await host.exec(`systemctl show -P ExecMainExitTimestampMonotonic apono-connector-expiry`)).stdout)
    const before = await lastRun()
    await expect.poll(lastRun, { timeout: 30_000, interval: 500 }).toBeGreaterThan(before)
    expect((await person.login(extended.certificatePath, 'id -Gn', 'longer')).stdout).toContain('dbadmins')
    await person.absent({ ...grant, generation: 3 })
  }, 90_000)

  it('outlives a reboot, and an older connector does not replace a newer program', async () => {
    const { grant } = await livesOn(host, person, 'boot', 600)
    expect((await host.exec('systemctl is-enabled apono-connector-expiry.timer')).stdout.trim()).toBe('enabled')
    const newer = `sed -i '1s/^# [0-9]*/# 999/' ${PROGRAM} && head -n 1 ${PROGRAM}`
    const { stdout } = await host.exec(newer)
    await person.present({ ...grant, generation: 2, seconds: 600 })
    expect((await host.exec(`head -n 1 ${PROGRAM}`)).stdout).toBe(stdout)
    // Another text of the same version, or an older one, is replaced.
    await host.exec(`sed -i '1s/^# [0-9]* [0-9a-f]*/# 0 0/' ${PROGRAM}`)
    await person.present({ ...grant, generation: 3, seconds: 600 })
    expect((await host.exec(`head -n 1 ${PROGRAM}`)).stdout).toMatch(/^# [1-9][0-9]* [0-9a-f]{64} /)
  }, 60_000)

  it('a timer that an admin stopped is told by inspect, and one that was deleted comes back', async () => {
    const { grant } = await livesOn(host, person, 'gone', 600)
    await host.exec('systemctl stop apono-connector-expiry.timer')
    const codes = async () => (await inspect(person.link, runContext())).problems.map(({ code }) => code)
    expect(await codes()).toContain('no_expiry_timer')
    await host.exec(`rm ${UNITS}.timer ${UNITS}.service; systemctl daemon-reload`)
    expect(await codes()).toContain('no_expiry_timer')
    expect((await person.present({ ...grant, generation: 2 })).reply.onHostExpiry).toBe('full')
    expect(await codes()).not.toContain('no_expiry_timer')
  }, 60_000)

  it('on a cloned machine it ends every login that was copied, and removes itself', async () => {
    const clone = await startHost({ kind: 'systemd' })
    try {
      const somebody = await makePerson(clone)
      const { certificatePath } = await livesOn(clone, somebody, 'eve', 600)
      await clone.exec('echo 0123456789abcdef0123456789abcdef >/etc/machine-id')
      await expect.poll(() => timerFiles(clone), { timeout: 30_000 }).toEqual([])
      expect(await clone.shadow('eve')).toMatchObject({ expires: '1' })
      expect((await somebody.login(certificatePath, 'true', 'eve')).code).toBe(255)
    } finally {
      await clone.stop()
    }
  }, 60_000)
})

describe('with cron', () => {
  it('the server ends everything within the minute', async () => {
    const host = await startHost()
    try {
      const person = await makePerson(host)
      const life = await livesOn(host, person, 'short', 8)
      expect(life.reply.onHostExpiry).toBe('full')
      expect(await timerFiles(host)).toEqual(['/etc/cron.d/apono-connector', PROGRAM])
      await isOver(host, person, life)
      await expect.poll(() => timerFiles(host), { timeout: 70_000 }).toEqual([])
    } finally {
      await host.stop()
    }
  }, 150_000)
})

describe('with neither', () => {
  it('says that only logins end by themselves', async () => {
    const host = await startHost({ setup: 'pid=$(cat /run/crond.pid) && kill "$pid"' })
    try {
      const person = await makePerson(host)
      expect((await person.present({ login: 'eve' })).reply.onHostExpiry).toBe('logins')
      const seen = await inspect(person.link, runContext())
      expect(seen.onHostExpiry).toBe('logins')
      expect(seen.problems).toContainEqual(expect.objectContaining({ code: 'no_expiry_timer', severity: 'warning' }))
      expect(await timerFiles(host)).toEqual([])
    } finally {
      await host.stop()
    }
  })
})
