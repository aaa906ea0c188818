import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { ensurePresent, inspect } from '../../src/host/host-program.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { type SshSession, sshSession } from '../hosts/openssh.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { makePerson, openSshLink, type Person, runContext } from './person.ts'

/** What only a booted systemd has: user slices and managers, units that start things again, sshd as a unit. */
let host: TestHost
let person: Person
beforeAll(async () => {
  host = await startHost({
    kind: 'systemd',
    setup: `printf '%%dbadmins ALL=(ALL) NOPASSWD:ALL\\n' >/etc/sudoers.d/dbadmins; chmod 440 /etc/sudoers.d/dbadmins`,
  })
})
afterAll(() => host?.stop())

let serial = 0
let login = ''
let id = ''
beforeEach(async () => {
  login = `sys${++serial}`
  id = `grt_s${serial}`
  person = await makePerson(host)
})

const commandsOf = async (uid: number) => (await host.processesOf(uid)).map(({ command }) => command)
const unit = async (...args: string[]) => (await host.exec(['systemctl', ...args])).stdout.trim()

/** The unit of the login's own manager that starts a process again whenever it ends. */
const stubbornUnit = `mkdir -p .config/systemd/user && cat >.config/systemd/user/stubborn.service <<'END'
[Service]
ExecStart=/bin/sleep 4242
Restart=always
RestartSec=0
[Install]
WantedBy=default.target
END
systemctl --user enable --now stubborn.service`

describe('the person cannot stay by', () => {
  it('jobs that outlive the login, of their own and root’s', async () => {
    const { reply, certificatePath } = await person.present({ id, login, groups: ['dbadmins'] })
    const session = person.stay(certificatePath, login)
    await session.ready
    session.write('setsid nohup sleep 4301 >/dev/null 2>&1 &\n')
    session.write('sudo setsid nohup sleep 4302 >/dev/null 2>&1 </dev/null &\n')
    await expect.poll(() => commandsOf(reply.uid)).toEqual(expect.arrayContaining(['sleep 4301', 'sleep 4302']))
    expect(await unit('is-active', `user-${reply.uid}.slice`)).toBe('active')

    const result = await person.absent({ id, login, groups: ['dbadmins'] })
    expect(result).toMatchObject({ processesLeft: 0, account: 'locked', assurance: 'root_was_possible' })
    expect(await session.closed).toBe(255)
    expect(await commandsOf(reply.uid)).toEqual([])
    await expect.poll(() => unit('is-active', `user-${reply.uid}.slice`)).toBe('inactive')
  })

  it('a lingering manager that starts everything again', async () => {
    const { reply, certificatePath } = await person.present({ id, login })
    // As the person may with polkit, which is not here.
    expect((await host.exec(['loginctl', 'enable-linger', login])).code).toBe(0)
    expect((await person.login(certificatePath, stubbornUnit, login)).code).toBe(0)
    await expect.poll(() => commandsOf(reply.uid)).toContain('/bin/sleep 4242')
    expect((await host.exec(`ls /var/lib/systemd/linger`)).stdout).toContain(login)

    const result = await person.absent({ id, login })
    expect(result).toMatchObject({ processesLeft: 0, account: 'locked' })
    expect(result.residue).toContainEqual({ kind: 'linger', detail: login, removed: true })
    expect((await host.exec(`ls /var/lib/systemd/linger`)).stdout).not.toContain(login)
    expect(await commandsOf(reply.uid)).toEqual([])
    // Whoever would start it again had the time to.
    await expect.poll(() => unit('is-active', `user@${reply.uid}.service`)).not.toBe('active')
    expect(await commandsOf(reply.uid)).toEqual([])
  })

  it('an at job', async () => {
    const { certificatePath } = await person.present({ id, login })
    const set = await person.login(certificatePath, 'echo "sleep 4401" | at now + 1 hour', login)
    expect(set.code).toBe(0)
    expect((await host.exec('atq')).stdout).toContain(login)
    const result = await person.absent({ id, login })
    expect(result.residue).toContainEqual(expect.objectContaining({ kind: 'at_job', removed: true }))
    expect((await host.exec('atq')).stdout).toBe('')
  })
})

it('a service that the person restarted as root is the server’s, and lives', async () => {
  const { reply, certificatePath } = await person.present({ id, login, groups: ['dbadmins'] })
  const before = await unit('show', '--value', '--property=MainPID', 'cron')
  expect((await person.login(certificatePath, 'sudo systemctl restart cron', login)).code).toBe(0)
  const after = await unit('show', '--value', '--property=MainPID', 'cron')
  expect(after).not.toBe(before)
  await person.absent({ id, login, groups: ['dbadmins'] })
  expect(await unit('show', '--value', '--property=MainPID', 'cron')).toBe(after)
  expect(await commandsOf(reply.uid)).toEqual([])
})

describe('a server that is prepared', () => {
  let fresh: TestHost
  beforeAll(async () => {
    fresh = await startHost({ kind: 'systemd' })
  })
  afterAll(() => fresh?.stop())

  it('reloads sshd by its unit, and every live session stays', async () => {
    const admin = sshSession({ host: fresh, user: fresh.user, privateKeyPath: fresh.connectorKeyPath })
    await admin.ready
    const property = async (name: string) =>
      (await fresh.exec(['systemctl', 'show', '--value', `--property=${name}`, 'ssh'])).stdout.trim()
    const pid = await property('MainPID')
    const somebody = await makePerson(fresh)
    const { certificatePath } = await somebody.present({ login: 'eve' })
    expect((await somebody.login(certificatePath, 'true', 'eve')).code).toBe(0)
    expect(await property('MainPID')).toBe(pid)
    expect(await property('ActiveState')).toBe('active')
    expect((await fresh.log()).match(/Received SIGHUP; restarting/g)).toHaveLength(1)
    expect(await answers(admin)).toBe(true)
    admin.kill()
    await admin.closed
  })

  it('restarts an sshd that has its socket from systemd, which a reload would end, and every live session stays', async () => {
    const set = await fresh.exec(
      'rm /etc/ssh/sshd_config.d/00-apono-connector.conf && systemctl disable --now ssh.service && systemctl enable --now ssh.socket',
    )
    expect(set.code).toBe(0)
    const admin = sshSession({ host: fresh, user: fresh.user, privateKeyPath: fresh.connectorKeyPath })
    await admin.ready
    const somebody = await makePerson(fresh)
    const { reply, certificatePath } = await somebody.present({ id: 'grt_socket', login: 'socket' })
    expect((await fresh.exec('systemctl is-active ssh.socket ssh.service; systemctl is-system-running')).stdout).toBe(
      'active\nactive\nrunning\n',
    )
    expect(await answers(admin)).toBe(true)

    const session = somebody.stay(certificatePath, 'socket')
    await session.ready
    const result = await somebody.absent({ id: 'grt_socket', login: 'socket' })
    expect(result).toMatchObject({ processesLeft: 0, sessionsEnded: 1, account: 'locked' })
    expect(await session.closed).toBe(255)
    expect(await fresh.processesOf(reply.uid)).toEqual([])
    expect((await somebody.login(certificatePath, 'true', 'socket')).code).toBe(255)
    expect(await answers(admin)).toBe(true)
    admin.kill()
    await admin.closed
  })

  it('asks sshd also while the folder is gone that sshd wants', async () => {
    const link = await openSshLink(fresh, join(scratchDirectory(), 'control'))
    await inspect(link, runContext())
    // What was started for a connection stays, so that connection does as well; a new one makes the folder again.
    await fresh.exec('systemctl stop ssh.service; rm -rf /run/sshd; ls -d /run/sshd')
    const somebody = await makePerson(fresh)
    const { grant, certificate, ...request } = somebody.request({ id: 'grt_folder', login: 'folder' }, 'present')
    await ensurePresent(link, runContext(), { grant, ...request })
    const certificatePath = await somebody.keep(certificate)
    expect((await somebody.login(certificatePath, 'true', 'folder')).code).toBe(0)
  })
})

let asked = 0
const answers = async (session: SshSession): Promise<boolean> => {
  const sum = ++asked + 40
  session.write(`echo still-$((${asked}+40))\n`)
  await expect.poll(() => session.output()).toContain(`still-${sum}`)
  return true
}
