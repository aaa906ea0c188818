import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { runCommand } from '../hosts/command.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { sshArguments } from '../hosts/openssh.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { makePerson, type Person } from './person.ts'
import { expectGone, expectNobody, until } from './world.ts'

/**
 * Staying with root in hand, while a granted group gave it. What such a person can do has no end, and the result says so
 * (`root_was_possible`); each thing here is one that is ended all the same, or never called ended.
 */
const PASSWORD = 'correct-horse-7'
let host: TestHost
let person: Person
let friend: { readonly login: string; readonly run: (command: string) => Promise<{ code: number | null }> }
beforeAll(async () => {
  host = await startHost({
    // For chattr +i. Namespaces and mounts need more: attack-systemd.test.ts.
    run: { capabilities: ['LINUX_IMMUTABLE'] },
    setup: `printf '%%dbadmins ALL=(ALL) NOPASSWD:ALL\\n' >/etc/sudoers.d/dbadmins; chmod 440 /etc/sudoers.d/dbadmins`,
  })
  const somebody = await makePerson(host)
  const { certificatePath } = await somebody.present({ id: 'grt_friend', login: 'friend' })
  friend = { login: 'friend', run: (command) => somebody.login(certificatePath, command, 'friend') }
})
afterAll(() => host?.stop())

const groups = ['dbadmins']
let serial = 0
let login = ''
let id = ''
beforeEach(async () => {
  login = `max${++serial}`
  id = `grt_r${serial}`
  person = await makePerson(host)
})

/** A grant whose person does this as root, in a live session that stays open. */
const withRoot = async (script: string) => {
  const { certificatePath, reply } = await person.present({ id, login, groups })
  const session = person.stay(certificatePath, login)
  await session.ready
  const done = await person.login(certificatePath, `sudo sh -c '${script.replaceAll('LOGIN', login)}'`, login)
  expect(done).toMatchObject({ code: 0 })
  return { person, login, uid: reply.uid, certificatePath, session }
}

const passwordLogin = async (as: string): Promise<number | null> => {
  const askpass = join(scratchDirectory(), 'askpass')
  await writeFile(askpass, `#!/bin/sh\necho ${PASSWORD}\n`, { mode: 0o700 })
  const settings = ['BatchMode=no', 'PreferredAuthentications=password', 'NumberOfPasswordPrompts=1']
  const { code } = await runCommand(
    'ssh',
    [...sshArguments({ host, user: as, privateKeyPath: '/dev/null', settings }), 'true'],
    { env: { ...process.env, SSH_ASKPASS: askpass, SSH_ASKPASS_REQUIRE: 'force' } },
  )
  return code
}
const suFromFriend = async (as: string): Promise<number | null> =>
  (await friend.run(`echo ${PASSWORD} | su ${as} -c true`)).code

describe('with root in hand, the person does not stay by', () => {
  it('a password, a second name, another shell and home, a second line of their name', async () => {
    const leaver =
      await withRoot(`echo LOGIN:${PASSWORD} | chpasswd; useradd -o -u $(id -u LOGIN) -M -G dbadmins alias${serial}
      echo alias${serial}:${PASSWORD} | chpasswd; echo LOGIN:x:0:0::/root:/bin/sh >>/etc/passwd`)
    const ways = () => Promise.all([passwordLogin(login), suFromFriend(login), suFromFriend(`alias${serial}`)])
    expect(await ways()).toEqual([0, 0, 0])

    const result = await person.absent({ id, login, groups })
    expect(result).toMatchObject({ processesLeft: 0, account: 'locked', assurance: 'root_was_possible' })
    const after = await ways()
    expect(after[0]).toBe(255)
    expect(after.slice(1)).not.toContain(0)
    expect(await host.shadow(`alias${serial}`)).toMatchObject({ locked: true, expires: '1' })
    expect((await host.exec('grep ^dbadmins: /etc/group')).stdout).not.toContain(`alias${serial}`)
    await host.exec(`sed -i '/^${login}:x:0:/d' /etc/passwd`)
    await expectGone(host, leaver)
  })

  it('own keys that sshd reads, because they took our setting away', async () => {
    const leaver = await withRoot(
      `mv /etc/ssh/sshd_config.d/00-apono-connector.conf /etc/ssh/taken; pkill -HUP -o -x sshd`,
    )
    await person.login(leaver.certificatePath, 'true', login)
    await host.exec(
      `install -d -m 700 -o ${login} /home/${login}/.ssh; echo '${person.key.publicKey}' >/home/${login}/.ssh/authorized_keys`,
    )
    await expect.poll(async () => (await person.login(undefined, 'true', login)).code, { timeout: 10_000 }).toBe(0)
    expect(await person.absent({ id, login, groups })).toMatchObject({ processesLeft: 0, account: 'locked' })
    await host.exec('mv /etc/ssh/taken /etc/ssh/sshd_config.d/00-apono-connector.conf; pkill -HUP -o -x sshd')
    await expectGone(host, leaver)
  })

  it('a trust line that cannot be removed: the rest ends, and the end is not confirmed until it can', async () => {
    const leaver = await withRoot('chattr +i /etc/ssh/apono-connector/LOGIN')
    for (const generation of [2, 3]) {
      await expect(person.absent({ id, login, groups, generation })).rejects.toMatchObject({
        code: 'revoke_incomplete',
        message: expect.stringContaining('trust line'),
      })
    }
    await expectNobody(host, leaver.uid)
    expect((await person.login(leaver.certificatePath, 'true', login)).code).toBe(255)
    await host.exec(`chattr -i /etc/ssh/apono-connector/${login}`)
    expect(await person.absent({ id, login, groups, generation: 4 })).toMatchObject({ account: 'locked' })
    await expectGone(host, leaver)
  })

  it('an account that cannot be changed, or a usermod that only says that it did: not confirmed', async () => {
    const leaver = await withRoot('chattr +i /etc/shadow')
    await expect(person.absent({ id, login, groups })).rejects.toMatchObject({ code: 'revoke_incomplete' })
    await host.exec('chattr -i /etc/shadow; mv /usr/sbin/usermod /root/real; ln -s /bin/true /usr/sbin/usermod')
    await expectNobody(host, leaver.uid)
    await expect(person.absent({ id, login, groups, generation: 3 })).rejects.toMatchObject({
      code: 'revoke_incomplete',
    })
    await host.exec('mv /root/real /usr/sbin/usermod')
    expect(await person.absent({ id, login, groups, generation: 4 })).toMatchObject({ account: 'locked' })
    await expectGone(host, leaver)
  })

  it('hiding the ledger, or what it says of them: never called ended', async () => {
    const { reply } = await person.present({ id, login, groups })
    await host.exec('mv /var/lib/apono-connector /root/hidden')
    const end = () => person.absent({ id, login, groups, hostId: reply.hostId })
    await expect(end()).rejects.toMatchObject({ code: 'wrong_host' })
    await host.exec('mv /root/hidden /var/lib/apono-connector')
    await host.exec(
      `cp /var/lib/apono-connector/logins/${login} /root/kept; sed -i 's/^uid=.*/uid=0/' /var/lib/apono-connector/logins/${login}`,
    )
    await expect(end()).rejects.toMatchObject({ code: 'revoke_incomplete' })
    expect(await host.shadow('root')).toMatchObject({ expires: '' })
    await host.exec(`cp /root/kept /var/lib/apono-connector/logins/${login}`)
    expect(await end()).toMatchObject({ account: 'locked', assurance: 'root_was_possible' })
  })
})

describe('processes of root’s that they started', () => {
  const script = `cp /bin/sleep /usr/local/bin/sshd-LOGIN; setsid -f /usr/local/bin/sshd-LOGIN 300 >/dev/null 2>&1 </dev/null
    /usr/sbin/sshd -p 2222 >/dev/null 2>&1 9>&-`
  const detached = () => `pgrep -f '^/usr/local/bin/sshd-${login} 300' && pgrep -f '^sshd: /usr/sbin/sshd -p 2222'`
  const stop = () => host.exec(`pkill -f '^/usr/local/bin/sshd-${login} 300'; pkill -f '^sshd: /usr/sbin/sshd -p 2222'`)

  it('and detached are named, under the policy session', async () => {
    const { uid } = await withRoot(script)
    await until(host, detached())
    const result = await person.absent({ id, login, groups })
    expect(result).toMatchObject({ processesLeft: 0, assurance: 'root_was_possible' })
    const left = await host.processesOf(uid)
    expect(left.length).toBe(2)
    for (const { pid } of left) {
      expect(result.residue).toContainEqual({
        kind: 'process',
        detail: expect.stringMatching(`^${pid} `),
        removed: false,
      })
    }
    await stop()
  })

  it('are ended with all others, under the policy all', async () => {
    const policy = { rootProcesses: 'all' } as const
    const { uid, certificatePath } = await withRoot(script)
    await until(host, detached())
    expect(await person.absent({ id, login, groups, policy })).toMatchObject({ processesLeft: 0 })
    await expectNobody(host, uid)
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
    expect((await host.exec('pgrep -x cron && pgrep -x atd')).code).toBe(0)
  })
})
