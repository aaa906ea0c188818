import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { runCommand } from '../hosts/command.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { sshArguments, sshLogin } from '../hosts/openssh.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { makePerson, type Person } from './person.ts'
import { expectGone, expectNobody, until } from './world.ts'

/** Staying by what a connection carries, by what has only just begun, and with the help of somebody else. */
let host: TestHost
let person: Person
beforeAll(async () => {
  host = await startHost({
    run: { securityOptions: ['seccomp=unconfined', 'apparmor=unconfined'] },
    setup: SLOW_PAM,
  })
})
afterAll(() => host?.stop())

/** A PAM module that takes its time where a test says so: whoever is inside it is past every check, and not in yet. */
const SLOW_PAM = `cat >/usr/local/sbin/slow-module <<'END'
#!/bin/sh
[ "$PAM_TYPE" = open_session ] && [ -e "/run/slow/$PAM_USER.$PAM_SERVICE" ] || exit 0
touch "/run/slow/begins.$PAM_USER"
exec sleep 20
END
chmod 755 /usr/local/sbin/slow-module
mkdir -m 1777 /run/slow
for service in sshd atd; do echo 'session optional pam_exec.so /usr/local/sbin/slow-module' >>/etc/pam.d/$service; done`

let serial = 0
let login = ''
let id = ''
beforeEach(async () => {
  login = `eve${++serial}`
  id = `grt_c${serial}`
  person = await makePerson(host)
})

describe('the person cannot stay by', () => {
  it('connections that are shared, kept open and multiplexed; and gets no forwarding over any', async () => {
    const { certificatePath, reply } = await person.present({ id, login })
    const as = { host, user: login, privateKeyPath: person.key.privateKeyPath, certificatePath }
    const controlPath = join(scratchDirectory(), 'mux')
    const master = spawn('ssh', ['-M', '-S', controlPath, '-N', ...sshArguments(as)], { stdio: 'ignore' })
    const closed = new Promise((resolve) => master.on('close', resolve))
    await expect.poll(() => existsSync(controlPath), { timeout: 10_000 }).toBe(true)
    const shared = (command: string) => sshLogin({ ...as, controlPath, command })
    expect((await shared('setsid nohup sleep 99 >/dev/null 2>&1 & echo in')).stdout).toBe('in\n')

    expect((await shared('echo "agent: $SSH_AUTH_SOCK"')).stdout).toBe('agent: \n')
    const forward = await sshLogin({
      ...as,
      command: 'true',
      settings: ['ExitOnForwardFailure=yes', 'RemoteForward=127.0.0.1:7022 127.0.0.1:22'],
    })
    expect(forward).toMatchObject({ code: 255, stderr: expect.stringContaining('remote port forwarding failed') })
    const direct = await runCommand('ssh', ['-W', '127.0.0.1:22', ...sshArguments(as)])
    expect(direct.stderr).toContain('administratively prohibited')

    expect(await person.absent({ id, login })).toMatchObject({ processesLeft: 0, account: 'locked' })
    expect(await closed).toBe(255)
    expect((await shared('true')).code).toBe(255)
    await expectGone(host, { person, login, uid: reply.uid, certificatePath })
  })

  it('a login that is past every check and not in yet', async () => {
    const { certificatePath, reply } = await person.present({ id, login })
    await host.exec(`touch /run/slow/${login}.sshd`)
    const entering = person.login(certificatePath, 'setsid nohup sleep 99 >/dev/null 2>&1 </dev/null &', login)
    await until(host, `test -e /run/slow/begins.${login}`)
    expect(await person.absent({ id, login })).toMatchObject({ processesLeft: 0 })
    await expectNobody(host, reply.uid)
    // On a busy machine it may come in before the end is over; it is gone with the end all the same.
    await entering
    await expectNobody(host, reply.uid)
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
  })

  it('an at job that is past every check and not run yet', async () => {
    const { certificatePath, reply } = await person.present({ id, login })
    await host.exec(`touch /run/slow/${login}.atd`)
    await person.login(certificatePath, 'echo "exec sleep 99" | at now', login)
    await until(host, `test -e /run/slow/begins.${login}`)
    expect(await person.absent({ id, login })).toMatchObject({ processesLeft: 0 })
    await expectNobody(host, reply.uid)
    expect((await host.exec('pgrep -x atd')).code).toBe(0)
  })

  it('a friend who runs as them, through a shell of theirs that lends its rights', async () => {
    const friend = await makePerson(host)
    const friends = await friend.present({ id: `${id}f`, login: `${login}f` })
    const { certificatePath, reply } = await person.present({ id, login })
    await person.login(certificatePath, 'chmod 711 .; cp /bin/bash lend; chmod 4755 lend', login)
    const session = friend.stay(friends.certificatePath, `${login}f`)
    await session.ready
    session.write(`/home/${login}/lend -p -c 'exec perl -e "\\$< = \\$>; sleep 99"'\n`)
    await until(host, `pgrep -u ${login} -x perl`)

    expect(await person.absent({ id, login })).toMatchObject({ processesLeft: 0 })
    await expectNobody(host, reply.uid)
    session.write('echo still-$((40+2))\n')
    await expect.poll(() => session.output(), { timeout: 10_000 }).toContain('still-42')
    session.kill()
  })

  it('holding what our helper writes to, while another grant lives', async () => {
    const policy = { trust: 'home' } as const
    const { certificatePath } = await person.present({ id, login, policy })
    const other = await person.present({ id: `${id}b`, login, policy })
    // pidfd_open, pidfd_getfd: takes a copy of every pipe that a process of the same uid has open which root started.
    const holder = `mkdir "got"; while (1) { opendir D, "/proc"; for (grep /^\\d+$/, readdir D) { next if $seen{$_};
      open S, "/proc/$_/status"; ($q) = map { /^PPid:\\s+(\\d+)/ } <S>; next if (stat "/proc/$q")[4] == $<;
      for $fd (0..2) { (readlink "/proc/$_/fd/$fd") =~ /^pipe/ or next; $p = syscall 434, $_ + 0, 0; next if $p < 0;
      $seen{$_}++; syscall(438, $p, $fd, 0) >= 0 and open F, ">got/pipes" } } }`
    await person.login(certificatePath, `setsid nohup perl -e '${holder}' >/dev/null 2>&1 </dev/null & true`, login)
    await until(host, `pgrep -u ${login} -x perl`)
    const caught = async () => (await host.exec(`test -e /home/${login}/got/pipes`)).code === 0
    for (let generation = 2; generation < 20 && !(await caught()); generation++) {
      await person.present({ id: `${id}b`, login, policy, generation, seconds: 300 + generation })
    }
    expect(await caught()).toBe(true)
    expect(await person.absent({ id, login, policy })).toMatchObject({ account: 'kept' })
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
    expect((await person.login(other.certificatePath, 'true', login)).code).toBe(0)
    expect(await person.absent({ id: `${id}b`, login, policy, generation: 20 })).toMatchObject({
      processesLeft: 0,
      account: 'locked',
    })
  })
})
