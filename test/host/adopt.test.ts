import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { type KeyPair, keygen, sshLogin, sshSession } from '../hosts/openssh.ts'
import { type GrantOptions, makePerson, type Person } from './person.ts'

/** A login that was there before us: used only where the policy says so, and left as it was found. */
let host: TestHost
let person: Person
let ownKey: KeyPair
beforeAll(async () => {
  host = await startHost()
  person = await makePerson(host)
  ownKey = await keygen()
})
afterAll(() => host?.stop())

let serial = 0
let login = ''
let grant: GrantOptions = {}
beforeEach(async () => {
  login = `old.Name${++serial}`
  grant = { id: `grt_${serial}`, login, groups: ['dbadmins'], policy: { existingUser: 'adopt' } }
  const made = await host.exec(`
    useradd -m -s /bin/bash --badname ${login} && usermod -aG developers ${login}
    install -d -m 700 -o ${login} -g ${login} /home/${login}/.ssh
    echo '${ownKey.publicKey}' >/home/${login}/.ssh/authorized_keys; chown ${login} /home/${login}/.ssh/authorized_keys`)
  expect(made.code).toBe(0)
})

const byOwnKey = (command = 'true') => sshLogin({ host, user: login, privateKeyPath: ownKey.privateKeyPath, command })
const files = () => host.exec(`cat /etc/passwd /etc/shadow /etc/group; find /etc/ssh /home/${login} | sort`)

describe.each(['root_file', 'home'] as const)('adoption with trust %s', (trust) => {
  beforeEach(() => {
    grant = { ...grant, policy: { existingUser: 'adopt', trust } }
  })

  it('lets the certificate in beside the login’s own keys, and leaves everything as it was', async () => {
    const anchor = await makePerson(host)
    await anchor.present({ id: `grt_anchor${serial}`, login: `anchor${serial}`, policy: { trust } })
    const before = await files()
    const { certificatePath, reply } = await person.present(grant)
    expect(reply).toMatchObject({ createdLogin: false, groupsAdded: ['dbadmins'], trust })
    const own = sshSession({ host, user: login, privateKeyPath: ownKey.privateKeyPath })
    await own.ready
    expect((await person.login(certificatePath, 'id -Gn', login)).stdout).toContain('dbadmins')
    expect((await byOwnKey('id -Gn')).stdout).toContain('dbadmins')

    const session = person.stay(certificatePath, login)
    await session.ready
    const result = await person.absent(grant)
    expect(result).toMatchObject({
      sessionsEnded: null,
      account: 'kept',
      groupsRemoved: ['dbadmins'],
      processesLeft: 0,
    })
    expect(result.residue).toContainEqual(expect.objectContaining({ kind: 'process', removed: false }))
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
    expect((await byOwnKey('id -Gn')).stdout).not.toContain('dbadmins')
    expect(await files()).toEqual(before)
    // Nobody was thrown out.
    own.write('echo still-$((40+2))\n')
    await expect.poll(() => own.output()).toContain('still-42')
    own.kill()
    session.kill()
  })
})

describe('adoption', () => {
  it('under two names: what was taken from both is not ours any more, also when another grant lives', async () => {
    await person.present(grant)
    await person.present({ ...grant, id: `${grant.id}b`, groups: ['deploy'] })
    await host.exec(`uid=$(id -u ${login}); useradd -M -o -u "$uid" second${serial}`)
    await person.absent(grant)
    const record = await host.exec(`grep ^added= /var/lib/apono-connector/logins/${login}`)
    expect(record.stdout.trim()).toBe('added=deploy')
  })

  it('keeps exactly the rights of another live grant', async () => {
    const first = await person.present(grant)
    const second = await person.present({ ...grant, id: `${grant.id}b`, groups: ['deploy'] })
    expect(await person.absent(grant)).toMatchObject({ groupsRemoved: ['dbadmins'], account: 'kept' })
    expect((await person.login(first.certificatePath, 'true', login)).code).toBe(255)
    const { stdout } = await person.login(second.certificatePath, 'id -Gn', login)
    expect(stdout).toContain('deploy')
    expect(stdout).not.toContain('dbadmins')
    expect((await byOwnKey()).code).toBe(0)
  })

  it('takes what it added back from a login that was renamed', async () => {
    await person.present(grant)
    await host.exec(`usermod -l renamed${serial} ${login}`)
    expect(await person.absent(grant)).toMatchObject({ account: 'kept', groupsRemoved: ['dbadmins'] })
    expect(await host.groupsOf(`renamed${serial}`)).not.toContain('dbadmins')
  })

  it('takes what it added back from a login that got another uid', async () => {
    await person.present(grant)
    await host.exec(`usermod -u ${4200 + serial} ${login}`)
    expect(await person.absent(grant)).toMatchObject({ account: 'kept', groupsRemoved: ['dbadmins'] })
    expect(await host.groupsOf(login)).not.toContain('dbadmins')
  })

  it('keeps what sshd read for the login before, whatever that was', async () => {
    await host.exec(`mkdir -p /etc/ssh/keys && cp /home/${login}/.ssh/authorized_keys /etc/ssh/keys/${login}
      rm /home/${login}/.ssh/authorized_keys; chmod 644 /etc/ssh/keys/${login}
      printf 'Match User ${login}\\n\\tAuthorizedKeysFile /etc/ssh/keys/%%u\\n' >/etc/ssh/sshd_config.d/50-site.conf`)
    const { certificatePath } = await person.present(grant)
    expect((await byOwnKey()).code).toBe(0)
    expect((await person.login(certificatePath, 'true', login)).code).toBe(0)
    await person.absent(grant)
    expect((await byOwnKey()).code).toBe(0)
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
    await host.exec('rm /etc/ssh/sshd_config.d/50-site.conf; rm -r /etc/ssh/keys')
  })

  it('asks an sshd whose configuration tells by local address and port', async () => {
    await host.exec(
      `printf 'Match LocalPort 2222 LocalAddress 10.9.9.9\\n\\tX11Forwarding no\\n' >/etc/ssh/sshd_config.d/60-site.conf`,
    )
    const { certificatePath } = await person.present(grant)
    expect((await byOwnKey()).code).toBe(0)
    expect((await person.login(certificatePath, 'true', login)).code).toBe(0)
    await person.absent(grant)
    await host.exec('rm /etc/ssh/sshd_config.d/60-site.conf')
  })

  it('keeps the login’s own keys where sshd does not say what it reads', async () => {
    await host.exec(`mv /usr/sbin/sshd /usr/sbin/sshd.real
      printf '#!/bin/sh\\n[ "$1" != -T ] || exit 255\\nexec sshd.real "$@"\\n' >/usr/sbin/sshd; chmod 755 /usr/sbin/sshd`)
    await expect(person.present(grant)).rejects.toMatchObject({ code: 'sshd_refused_config' })
    await host.exec('mv /usr/sbin/sshd.real /usr/sbin/sshd')
    expect((await byOwnKey()).code).toBe(0)
    await person.absent(grant)
  })

  it('does not take a membership that the login had', async () => {
    await person.present({ ...grant, groups: ['developers', 'dbadmins'] })
    const result = await person.absent({ ...grant, groups: ['developers', 'dbadmins'] })
    expect(result.groupsRemoved).toEqual(['dbadmins'])
    expect(await host.groupsOf(login)).toContain('developers')
  })

  it.each([
    ['a shared uid', 'useradd -o -u "$(id -u LOGIN)" twin; true', 'login_system'],
    ['a system uid', 'usermod -u 777 LOGIN', 'login_system'],
    ['nobody’s uid', 'usermod -o -u 65534 LOGIN', 'login_system'],
    ['uid 0', 'usermod -o -u 0 LOGIN', 'login_system'],
    ['no shell', 'usermod -s /usr/sbin/nologin LOGIN', 'login_unusable'],
    ['an expired account', 'usermod -e 2020-01-01 LOGIN', 'login_unusable'],
  ])('is refused for %s, and changes nothing', async (_what, command, code) => {
    await host.exec(command.replaceAll('LOGIN', login))
    const before = await files()
    await expect(person.present(grant)).rejects.toMatchObject({ code })
    expect(await files()).toEqual(before)
    await host.exec('userdel twin; true')
  })

  it('is refused for root and for the connection user', async () => {
    for (const name of ['root', 'apono']) {
      await expect(person.present({ ...grant, login: name })).rejects.toMatchObject({ code: 'login_system' })
    }
  })

  it('is not done without the policy', async () => {
    await expect(person.present({ ...grant, policy: {} })).rejects.toMatchObject({ code: 'login_exists' })
  })
})
