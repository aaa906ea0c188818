import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson, type Person } from './person.ts'

/**
 * The person whose access is ending and who wants to stay, an admin's tools in between, a run that dies half-way. Each
 * of these was done to an earlier version and worked.
 */
let host: TestHost
let person: Person
beforeAll(async () => {
  host = await startHost({
    setup: `printf '%%dbadmins ALL=(ALL) NOPASSWD:ALL\\n' >/etc/sudoers.d/dbadmins; chmod 440 /etc/sudoers.d/dbadmins`,
  })
})
afterAll(() => host?.stop())

let serial = 0
let login = ''
let id = ''
beforeEach(async () => {
  login = `mal${++serial}`
  id = `grt_m${serial}`
  person = await makePerson(host)
})

const HOME = { trust: 'home' } as const

/** A process of the person's that outlives the login which started it. */
const leaveBehind = (certificatePath: string, script: string) =>
  person.login(certificatePath, `setsid nohup ${script} >/dev/null 2>&1 </dev/null &`, login)

describe('the person cannot stay by', () => {
  it('stopping every process of their own, ours included, in home mode', async () => {
    const { certificatePath, reply } = await person.present({ id, login, policy: HOME })
    await leaveBehind(certificatePath, `perl -e 'kill STOP => -1 while 1'`)
    await expect.poll(async () => (await host.processesOf(reply.uid)).length).toBeGreaterThan(0)
    const result = await person.absent({ id, login, policy: HOME })
    expect(result).toMatchObject({ processesLeft: 0, account: 'locked' })
    expect(await host.processesOf(reply.uid)).toEqual([])
  })

  it.each([
    ['deleting the account', 'userdel -f LOGIN'],
    ['taking its line out of /etc/passwd', `sed -i '/^LOGIN:/d' /etc/passwd /etc/shadow`],
    ['giving it another name', 'usermod -l other LOGIN'],
    ['giving it another uid', `sed -i 's/^LOGIN:x:[0-9]*:/LOGIN:x:4242:/' /etc/passwd`],
    ['leaving the managed group', 'gpasswd -d LOGIN apono-managed'],
  ])('%s', async (_how, command) => {
    const { certificatePath, reply } = await person.present({ id, login, groups: ['dbadmins'] })
    const session = person.stay(certificatePath, login)
    await session.ready
    expect((await host.exec(command.replaceAll('LOGIN', login))).code).toBe(0)

    const result = await person.absent({ id, login, groups: ['dbadmins'] })
    expect(result.processesLeft).toBe(0)
    expect(await session.closed).toBe(255)
    expect(await host.processesOf(reply.uid)).toEqual([])
    expect((await host.exec(`ls /etc/ssh/apono-connector/${login}`)).code).not.toBe(0)
    expect((await host.exec('grep ^dbadmins: /etc/group')).stdout.trim()).toMatch(/:$/)
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
    expect((await person.login(certificatePath, 'true', 'other')).code).toBe(255)
    await host.exec('userdel -f other; true')
  })

  it('taking the login out of the ledger as root: it ends, and is not called confirmed', async () => {
    const { certificatePath, reply } = await person.present({ id, login, groups: ['dbadmins'] })
    const session = person.stay(certificatePath, login)
    await session.ready
    await host.exec(`rm /var/lib/apono-connector/logins/${login}`)
    for (const generation of [2, 3]) {
      await expect(person.absent({ id, login, generation, groups: ['dbadmins'] })).rejects.toMatchObject({
        code: 'revoke_incomplete',
      })
    }
    expect(await session.closed).toBe(255)
    expect(await host.processesOf(reply.uid)).toEqual([])
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
    await host.exec(`gpasswd -d ${login} dbadmins`)
  })

  it('making the ledger unwritable: everything ends, and is not called confirmed', async () => {
    const { certificatePath, reply } = await person.present({ id, login, groups: ['dbadmins'] })
    const inTheWay = `/var/lib/apono-connector/grants/.new.cp_test.${id}`
    await host.exec(`mkdir ${inTheWay}`)
    await expect(person.absent({ id, login, groups: ['dbadmins'] })).rejects.toMatchObject({
      code: 'revoke_incomplete',
    })
    expect((await person.login(certificatePath, 'true', login)).code).toBe(255)
    expect(await host.processesOf(reply.uid)).toEqual([])
    await host.exec(`rmdir ${inTheWay}`)
    expect(await person.absent({ id, login, groups: ['dbadmins'] })).toMatchObject({ account: 'locked' })
  })

  it.each([
    ['shutting the home', 'chmod 0 .'],
    ['a link in place of .ssh', 'mv .ssh elsewhere; ln -s elsewhere .ssh'],
    ['a fifo in place of the file', 'rm .ssh/authorized_keys; mkfifo .ssh/authorized_keys'],
    ['a folder in place of the file', 'rm .ssh/authorized_keys; mkdir .ssh/authorized_keys'],
    ['a link to a file of root’s', 'rm .ssh/authorized_keys; ln -s /etc/motd .ssh/authorized_keys'],
  ])('%s, in home mode, while another grant lives', async (_how, command) => {
    const motd = await host.exec('stat /etc/motd; cat /etc/motd')
    const first = await person.present({ id, login, policy: HOME })
    const second = await person.present({ id: `${id}b`, login, policy: HOME })
    await person.login(first.certificatePath, command, login)
    expect(await person.absent({ id, login, policy: HOME })).toMatchObject({ account: 'kept' })
    expect((await person.login(first.certificatePath, 'true', login)).code).toBe(255)
    expect((await person.login(second.certificatePath, 'true', login)).code).toBe(0)
    expect(await host.exec('stat /etc/motd; cat /etc/motd')).toEqual(motd)
  })

  it('a key of their own under the policy keep, after an admin’s tool dropped the managed group', async () => {
    const policy = { onRevoke: 'keep' } as const
    const { certificatePath } = await person.present({ id, login, policy })
    await person.login(
      certificatePath,
      `umask 077; mkdir .ssh; echo '${person.key.publicKey}' >.ssh/authorized_keys`,
      login,
    )
    await host.exec(`gpasswd -d ${login} apono-managed`)
    const result = await person.absent({ id, login, policy })
    expect(result).toMatchObject({ account: 'locked' })
    expect(result.residue).toContainEqual({ kind: 'authorized_key', detail: '1 keys in ~/.ssh', removed: false })
    expect((await person.login(undefined, 'true', login)).code).toBe(255)
  })

  it('a command of their own in /usr/local', async () => {
    await host.exec(
      'printf "#!/bin/sh\\nid >/root/owned\\n" | tee /usr/local/bin/atq >/usr/local/sbin/usermod; chmod 755 /usr/local/bin/atq /usr/local/sbin/usermod',
    )
    await person.present({ id, login, groups: ['dbadmins'] })
    await person.absent({ id, login, groups: ['dbadmins'] })
    expect((await host.exec('rm /usr/local/bin/atq /usr/local/sbin/usermod; ls /root/owned')).code).not.toBe(0)
  })

  it('a shortened grant, or a shrunk one: no line outlives its end, and assurance is not forgotten', async () => {
    const first = await person.present({ id, login, groups: ['sudo'], seconds: 600 })
    const session = person.stay(first.certificatePath, login)
    await session.ready
    await person.present({ id, login, generation: 2, seconds: 3 })
    expect(await session.closed).toBe(255)
    await expect
      .poll(async () => (await person.login(first.certificatePath, 'true', login)).code, { timeout: 10_000 })
      .toBe(255)
    expect(await person.absent({ id, login, generation: 3 })).toMatchObject({ assurance: 'root_was_possible' })
  })
})

describe('a run that dies', () => {
  /** usermod that takes the whole program with it, once, right after it took a group. */
  const dieAfterTakingAGroup = `mv /usr/sbin/usermod /usr/sbin/usermod.real
cat >/usr/sbin/usermod <<'END'
#!/bin/sh
/usr/sbin/usermod.real "$@"; code=$?
case "$*" in *-rG*) [ ! -e /run/die ] || { rm /run/die; pkill -KILL -f '^/bin/sh -s'; } ;; esac
exit $code
END
chmod 755 /usr/sbin/usermod`

  it('between taking a group and ending who has it is caught up with', async () => {
    await host.exec(dieAfterTakingAGroup)
    try {
      await person.present({ id, login, groups: ['dbadmins'] })
      const other = await person.present({ id: `${id}b`, login })
      const session = person.stay(other.certificatePath, login)
      await session.ready
      await host.exec('touch /run/die')
      await expect(person.absent({ id, login, groups: ['dbadmins'] })).rejects.toMatchObject({ retryable: true })
      expect(await person.absent({ id, login, groups: ['dbadmins'], generation: 3 })).toMatchObject({
        account: 'kept',
        groupsRemoved: ['dbadmins'],
      })
      expect(await session.closed).toBe(255)
      expect((await person.login(other.certificatePath, 'true', login)).code).toBe(0)
    } finally {
      await host.exec('mv /usr/sbin/usermod.real /usr/sbin/usermod')
    }
  })
})

describe('what is not ours', () => {
  it('another person’s name for the login ends nothing, and says so', async () => {
    const { certificatePath } = await person.present({ id, login })
    await expect(person.absent({ id, login, person: 'someone@example.com' })).rejects.toMatchObject({
      code: 'login_taken',
    })
    expect((await person.login(certificatePath, 'true', login)).code).toBe(0)
    expect(await person.absent({ id, login })).toMatchObject({ account: 'locked' })
  })

  it('memberships that a name left behind are not inherited', async () => {
    await host.exec(`sed -i 's/^sudo:.*/&${login}/' /etc/group`)
    await expect(person.present({ id, login })).rejects.toMatchObject({ code: 'login_exists' })
    expect(await host.passwd(login)).toBeUndefined()
    await host.exec(`sed -i 's/${login}$//' /etc/group`)
  })
})

describe('an account that somebody deleted', () => {
  it.each([
    ['home', 'root_file'],
    ['root_file', 'home'],
  ] as const)('is made anew by the policy of now: %s before, %s since', async (before, now) => {
    // So that sshd was asked for either.
    for (const trust of [before, now])
      await person.present({ id: `${id}${trust}`, login: `${login}${trust.slice(0, 1)}`, policy: { trust } })
    await person.present({ id, login, policy: { trust: before } })
    expect((await host.exec(`userdel -r ${login}`)).code).toBe(0)
    const again = { id, login, generation: 2, policy: { trust: now } }
    const { certificatePath, reply } = await person.present(again)
    expect(reply.trust).toBe(now)
    expect((await person.login(certificatePath, 'true', login)).code).toBe(0)
    expect(await person.absent({ ...again, generation: 3 })).toMatchObject({ account: 'locked', processesLeft: 0 })
  })

  it('and whose home came back belongs to its login when it is made anew', async () => {
    // A run that died between its record and the account, and a home that lies there since.
    await person.present({ id, login })
    await host.exec(
      `userdel ${login}; chown root: /home/${login}; sed -i 's/^state=.*/state=creating/' /var/lib/apono-connector/logins/${login}`,
    )
    const { certificatePath } = await person.present({ id, login, generation: 2 })
    expect((await person.login(certificatePath, 'touch mine', login)).code).toBe(0)
  })

  it('is not let in by what stood there for it as an adopted one', async () => {
    await host.exec(`useradd -m -s /bin/bash ${login}`)
    const policy = { existingUser: 'adopt' } as const
    await person.present({ id, login, policy })
    await person.present({ id: `${id}b`, login: `${login}b` })
    expect((await host.exec(`userdel -r ${login}`)).code).toBe(0)
    await expect(person.present({ id, login, generation: 2 })).rejects.toMatchObject({ code: 'trust_not_effective' })
    expect(await host.shadow(login)).toMatchObject({ expires: '1' })
  })
})

describe('a server that would not let the login in', () => {
  it.each([
    ['AllowUsers apono', 'login_not_allowed'],
    ['DenyGroups apono-managed', 'login_not_allowed'],
  ])('%s: refused by name, and the account stays off', async (line, code) => {
    const strict = await startHost({ setup: `printf '${line}\\n' >/etc/ssh/sshd_config.d/50-admin.conf` })
    try {
      const somebody = await makePerson(strict)
      await expect(somebody.present({ login: 'eve' })).rejects.toMatchObject({ code })
      expect(await strict.shadow('eve')).toMatchObject({ expires: '1' })
    } finally {
      await strict.stop()
    }
  })

  it('AllowGroups with a group that the grant gives, and a Match for it: let in, but not by the home', async () => {
    const settings = 'AllowGroups apono dbadmins\\nMatch Group dbadmins\\n\\tAuthorizedKeysFile /nowhere'
    const strict = await startHost({ setup: `printf '${settings}\\n' >/etc/ssh/sshd_config.d/50-admin.conf` })
    try {
      const somebody = await makePerson(strict)
      const groups = ['dbadmins']
      const { certificatePath } = await somebody.present({ login: 'eve', groups })
      expect((await somebody.login(certificatePath, 'true', 'eve')).code).toBe(0)
      const home = somebody.present({ id: 'grt_2', login: 'adam', groups, policy: HOME })
      await expect(home).rejects.toMatchObject({ code: 'trust_not_effective' })
      expect(await strict.shadow('adam')).toMatchObject({ expires: '1' })
    } finally {
      await strict.stop()
    }
  })

  it.each([
    'DenyUsers eve',
    '  denyusers=eve',
    '"DenyUsers" eve',
    'Deny"Users" eve',
    'Match User eve\\n\\tAuthorizedKeysFile none',
  ])('a rule for one name (%s): what was said of the logins before it is not taken for an answer', async (rule) => {
    const strict = await startHost()
    const admin = '/etc/ssh/sshd_config.d/00-admin.conf'
    const change = (command: string) => strict.exec(command).then(({ code }) => expect(code).toBe(0))
    try {
      const somebody = await makePerson(strict)
      const asked = () => strict.exec('ls /var/lib/apono-connector | grep asked').then(({ stdout }) => stdout.trim())
      const refused = { code: expect.stringMatching(/^(login_not_allowed|trust_not_effective)$/) }
      await somebody.present({ id: 'grt_1', login: 'dana' })
      // Nothing tells one from another yet, so this answer is for all.
      expect(await asked()).toBe('sshd-asked.root_file')
      await change(`sleep 0.02; printf '${rule}\\n' >${admin}`)
      await expect(somebody.present({ id: 'grt_2', login: 'eve' })).rejects.toMatchObject(refused)
      const { certificatePath } = await somebody.present({ id: 'grt_3', login: 'finn' })
      expect((await somebody.login(certificatePath, 'true', 'finn')).code).toBe(0)
      expect(await asked()).toBe('asked.finn')
      await expect(somebody.present({ id: 'grt_2', login: 'eve' })).rejects.toMatchObject(refused)
      expect(await strict.shadow('eve')).toMatchObject({ expires: '1' })
      await change(`sleep 0.02; rm ${admin}`)
      await somebody.present({ id: 'grt_2', login: 'eve' })
      expect(await asked()).toBe('asked.finn\nsshd-asked.root_file')
    } finally {
      await strict.stop()
    }
  })

  it('no Include: refused before anything is changed', async () => {
    const old = await startHost({ setup: `sed -i '/^Include/d' /etc/ssh/sshd_config` })
    try {
      const somebody = await makePerson(old)
      await expect(somebody.present({ login: 'eve' })).rejects.toMatchObject({ code: 'trust_not_effective' })
      expect(await old.passwd('eve')).toBeUndefined()
      const { certificatePath } = await somebody.present({ login: 'eve', policy: HOME })
      expect((await somebody.login(certificatePath, 'true', 'eve')).code).toBe(0)
    } finally {
      await old.stop()
    }
  })
})
