import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson, type Person } from './person.ts'
import { expectGone, expectNobody, until } from './world.ts'

/** What systemd offers somebody who wants to stay: managers, units, lingering, slices; and mounts, with root. */
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
  login = `sam${++serial}`
  id = `grt_y${serial}`
  person = await makePerson(host)
})

const UNIT = `mkdir -p .config/systemd/user/default.target.wants; cd .config/systemd/user
printf '[Service]\\nExecStart=/bin/sleep 91\\nRestart=always\\nRestartSec=0\\nKillMode=none\\n' >stay.service
ln -s ../stay.service default.target.wants/; export XDG_RUNTIME_DIR=/run/user/$(id -u)
systemctl --user daemon-reload; systemctl --user start stay.service`

describe('on a server with systemd the person does not stay by', () => {
  it('lingering, with a unit of their own that starts again at once, a timer, a detached process, a cron job', async () => {
    const { certificatePath, reply } = await person.present({ id, login })
    const session = person.stay(certificatePath, login)
    await session.ready
    const script = `${UNIT}; systemd-run --user --quiet --on-active=1 --timer-property=AccuracySec=1ms sleep 92
      systemd-run --user --quiet --scope setsid -f sleep 93 >/dev/null 2>&1 </dev/null; setsid -f nohup sleep 94 >/dev/null 2>&1 </dev/null
      echo 'sleep 95' | at now; true`
    expect(await person.login(certificatePath, script, login)).toMatchObject({ code: 0 })
    await host.exec(`loginctl enable-linger ${login}`)
    for (const seconds of [91, 92, 93, 94, 95]) await until(host, `pgrep -u ${login} -f 'sleep ${seconds}'`)

    const result = await person.absent({ id, login })
    expect(result).toMatchObject({ processesLeft: 0, account: 'locked', assurance: 'observed' })
    expect(result.residue).toContainEqual({ kind: 'linger', detail: login, removed: true })
    expect((await host.exec(`ls /var/lib/systemd/linger/${login}`)).code).not.toBe(0)
    expect((await host.exec(`systemctl is-active user@${reply.uid}.service`)).stdout).not.toBe('active\n')
    await expectGone(host, { person, login, uid: reply.uid, certificatePath })
    expect(await session.closed).not.toBe(0)
    // What was restarted: other services live on.
    expect((await host.exec('systemctl is-active cron atd ssh')).stdout).toBe('active\n'.repeat(3))
  })

  it('root processes in their slice, detached, and in namespaces of their own; what systemd runs for root is told apart', async () => {
    const groups = ['dbadmins']
    const { certificatePath, reply } = await person.present({ id, login, groups })
    const script = `sudo setsid -f sleep 81 >/dev/null 2>&1 </dev/null; setsid -f unshare -Urpf sleep 82 >/dev/null 2>&1 </dev/null
      sudo unshare -mp --fork setsid -f sleep 83 >/dev/null 2>&1 </dev/null
      sudo systemd-run --quiet --unit=left-${serial} sleep 84; sudo systemctl restart cron`
    expect(await person.login(certificatePath, script, login)).toMatchObject({ code: 0 })
    for (const seconds of [81, 82, 83, 84]) await until(host, `pgrep -f 'sleep ${seconds}'`)
    const result = await person.absent({ id, login, groups })
    expect(result).toMatchObject({ processesLeft: 0, assurance: 'root_was_possible' })
    await expectNobody(host, reply.uid)
    expect((await host.exec(`pgrep -f '^sleep 8[123]'`)).stdout).toBe('')
    // No audit uid, no slice: nothing tells a unit that root started from any other. Hence root_was_possible.
    expect((await host.exec(`systemctl is-active left-${serial} cron`)).stdout).toBe('active\nactive\n')
    await host.exec(`systemctl stop left-${serial}`)
  })

  it('mounts over the trust lines and over the ledger', async () => {
    const groups = ['dbadmins']
    const { certificatePath, reply } = await person.present({ id, login, groups })
    const mounts = `cp -a /etc/ssh/apono-connector /root/keys; mount --bind /root/keys/${login} /etc/ssh/apono-connector/${login}`
    expect(await person.login(certificatePath, `sudo sh -c '${mounts}'`, login)).toMatchObject({ code: 0 })
    const end = (generation: number) => person.absent({ id, login, groups, generation, hostId: reply.hostId })
    await expect(end(2)).rejects.toMatchObject({ code: 'revoke_incomplete' })
    await expectNobody(host, reply.uid)
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
    await host.exec(
      `umount /etc/ssh/apono-connector/${login}; mkdir /root/empty; mount --bind /root/empty /var/lib/apono-connector`,
    )
    await expect(end(3)).rejects.toMatchObject({ code: 'wrong_host' })
    await host.exec('umount /var/lib/apono-connector')
    expect(await end(4)).toMatchObject({ account: 'locked' })
    await expectGone(host, { person, login, uid: reply.uid, certificatePath })
  })
})
