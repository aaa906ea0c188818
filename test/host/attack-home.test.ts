import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson, type Person } from './person.ts'
import { expectGone, rootFiles, until } from './world.ts'

/**
 * The trust mode `home`: the trust line lies where the person can do anything to it. Each thing is done once before the
 * end of the login's only grant, and once while a second grant lives on and must go on working.
 */
let host: TestHost
let person: Person
let before: string[]
beforeAll(async () => {
  host = await startHost({
    // A home that can be filled, and files that not even root changes.
    run: { tmpfs: { '/home': 'size=64m,mode=755,exec' }, capabilities: ['LINUX_IMMUTABLE'] },
    setup: 'umask 022; mkdir -p /srv/secrets; echo secret >/srv/secrets/token; chmod 600 /srv/secrets/token',
  })
  before = await rootFiles(host)
})
afterAll(() => host?.stop())

let serial = 0
let login = ''
let id = ''
beforeEach(async () => {
  login = `hal${++serial}`
  id = `grt_h${serial}`
  person = await makePerson(host)
})

const policy = { trust: 'home' } as const

/** What the person does to their home, in their own login. */
const attacks: Record<string, string> = {
  'a link to a folder of root’s for .ssh': 'mv .ssh aside; ln -s /srv/secrets .ssh',
  'a link into nowhere for each': 'rm -r .ssh; ln -s /nowhere .ssh',
  'a fifo, with somebody who writes to it': `rm .ssh/authorized_keys; mkfifo .ssh/authorized_keys
    setsid nohup sh -c 'while :; do echo x >.ssh/authorized_keys; done' >/dev/null 2>&1 </dev/null &`,
  'a folder for the file, with files of any name': `rm .ssh/authorized_keys; mkdir -p .ssh/authorized_keys/x
    touch "$(printf '.ssh/authorized_keys/-f\\n\\e[2J;rm -rf x')" ".ssh/--help" .ssh/-rf`,
  'a file for .ssh': 'rm -r .ssh; echo x >.ssh',
  'access lists': `setfacl -R -m u:nobody:rwx,d:u:nobody:rwx . .ssh; setfacl -m u:$(id -u):--- .ssh/authorized_keys; chmod 500 .ssh`,
  '10,000 files in each folder, and folders a thousand deep': `perl -e 'for (1..10000) { open F, ">$_"; open F, ">.ssh/$_" }
    for (1..1000) { mkdir "d"; chdir "d" }'`,
  'a file without end': 'truncate -s 1T .ssh/authorized_keys',
  'keys of 20 MB, none of which ends': `head -c 20000000 /dev/zero | tr '\\0' k >>.ssh/authorized_keys`,
}

describe('in home mode the person does not stay by', () => {
  it.each(Object.entries(attacks))('%s', async (_name, script) => {
    const first = await person.present({ id, login, policy })
    const second = await person.present({ id: `${id}b`, login, policy })
    expect((await person.login(first.certificatePath, script, login)).code).toBe(0)

    expect(await person.absent({ id, login, policy })).toMatchObject({ account: 'kept' })
    expect((await person.login(first.certificatePath, 'true', login)).code).toBe(255)
    expect((await person.login(second.certificatePath, 'true', login)).code).toBe(0)
    expect((await person.login(second.certificatePath, script, login)).code).not.toBe(255)

    const result = await person.absent({ id: `${id}b`, login, policy })
    expect(result).toMatchObject({ processesLeft: 0, account: 'locked' })
    await expectGone(host, { person, login, uid: first.reply.uid, certificatePath: second.certificatePath })
  })

  it('a line of ours without its end and its name, and keys among bytes of any kind: not beyond their last grant', async () => {
    const { reply } = await person.present({ id, login, policy })
    const second = await person.present({ id: `${id}b`, login, policy })
    await person.login(
      second.certificatePath,
      `sed -i 's/,expiry-time="[^"]*"//; s/ apono:.*//' .ssh/authorized_keys; printf '#\\0\\377\\n%s\\n' '${person.key.publicKey}' >>.ssh/authorized_keys`,
      login,
    )
    expect(await person.absent({ id, login, policy })).toMatchObject({ account: 'kept' })
    // What is not ours stays, as long as the login is on.
    expect((await person.login(undefined, 'true', login)).code).toBe(0)
    expect(await person.absent({ id: `${id}b`, login, policy })).toMatchObject({ processesLeft: 0, account: 'locked' })
    await expectGone(host, { person, login, uid: reply.uid, certificatePath: second.certificatePath })
  })

  it('an environment of theirs: what runs as them for us has none of it', async () => {
    const { certificatePath } = await person.present({ id, login, policy })
    const second = await person.present({ id: `${id}b`, login, policy })
    // The loader itself tells where it was: the same way a library of theirs would have come in.
    const lines = `LD_PRELOAD=/home/${login}/mine.so\nLD_DEBUG=libs\nLD_DEBUG_OUTPUT=/home/${login}/trace\n`
    const script = `printf '${lines}' | tee .ssh/environment >.pam_environment
      printf '${lines}' | sed 's/^/export /' | tee .profile .bash_profile .zshenv >.bashrc; echo 'ENV=.profile' >>.pam_environment`
    await person.login(certificatePath, script, login)
    await person.login(certificatePath, 'true', login)
    const traces = async () => (await host.exec(`ls /home/${login} | grep -c ^trace`)).stdout.trim()
    expect(await traces()).not.toBe('0')
    await host.exec(`rm /home/${login}/trace*`)
    expect(await person.absent({ id, login, policy })).toMatchObject({ account: 'kept' })
    expect(await traces()).toBe('0')
    expect((await person.login(second.certificatePath, 'true', login)).code).toBe(0)
    await host.exec(`rm /home/${login}/trace*`)
    expect(await person.absent({ id: `${id}b`, login, policy })).toMatchObject({ account: 'locked' })
    expect(await traces()).toBe('0')
  })

  it('a full disk, or a file that not even root changes: nobody gets in by what lies there', async () => {
    const key = `echo '${person.key.publicKey}' >>.ssh/authorized_keys`
    const full = await person.present({ id, login, policy })
    await person.login(full.certificatePath, `${key}; head -c 80000000 /dev/zero >fill`, login)
    await until(host, `test $(df --output=avail /home | tail -n 1) -lt 4`)
    const result = await person.absent({ id, login, policy })
    expect(result).toMatchObject({ processesLeft: 0, account: 'locked' })
    expect(result.residue).toContainEqual(expect.objectContaining({ kind: 'authorized_key', removed: false }))
    await expectGone(host, { person, login, uid: full.reply.uid, certificatePath: full.certificatePath })
    await host.exec(`rm /home/${login}/fill`)

    const fixed = await person.present({ id: `${id}b`, login, policy })
    await host.exec(`chattr +i /home/${login}/.ssh/authorized_keys`)
    const again = await person.absent({ id: `${id}b`, login, policy })
    expect(again).toMatchObject({ processesLeft: 0, account: 'locked' })
    expect(again.residue).toContainEqual(expect.objectContaining({ kind: 'authorized_key', removed: false }))
    await expectGone(host, { person, login, uid: full.reply.uid, certificatePath: fixed.certificatePath })
    await host.exec(`chattr -i /home/${login}/.ssh/authorized_keys`)
  })

  it('any of these with a file of root’s', async () => {
    expect(await rootFiles(host)).toEqual(before)
  })
})
