import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { JobError } from '../../src/host/errors.ts'
import { ensurePresent } from '../../src/host/host-program.ts'
import { type HostOptions, startHost, type TestHost } from '../hosts/hosts.ts'
import type { HostKind } from '../hosts/kinds.ts'
import { makePerson, runContext } from './person.ts'
import { anotherSshd, change, look, RELOAD, sshdSettings, told } from './servers.ts'

// facts/host.md, section B: what stands between an accepted key and root. What is between the first packet and the
// accepted key is in test/ssh/session.test.ts.

/** The failure of a look at a server, as its code and what the server said. */
const failure = async (host: TestHost): Promise<{ code: string; message: string; hint: string }> => {
  try {
    await look(host)
  } catch (error) {
    if (error instanceof JobError) return error
    throw error
  }
  throw new Error('it became root')
}

const withHost = async (options: HostOptions, work: (host: TestHost) => Promise<void>): Promise<void> => {
  const host = await startHost(options)
  try {
    await work(host)
  } finally {
    await host.stop()
  }
}

/** A connection user with the connector's key, and what is special about it. */
const account = (name: string, script: string, sudoers = `${name} ALL=(ALL) NOPASSWD:ALL`): string => `
  useradd -m -p '*' -s /bin/bash ${name}
  cp -r /home/apono/.ssh /home/${name}/
  chown -R ${name}: /home/${name}/.ssh
  printf '%s\\n' ${sudoers
    .split('\n')
    .map((line) => `'${line}'`)
    .join(' ')} >/etc/sudoers.d/${name}
  ${script}`

type Case = readonly [name: string, code: string, script: string, sudoers?: string]

const SHELLS: readonly Case[] = [
  ['nologin', 'no_shell', 'usermod -s /usr/sbin/nologin nologin'],
  ['false', 'no_shell', 'usermod -s /bin/false false'],
  ['sftponly', 'sftp_only', ''],
  ['forced', 'shell_hijacked', ''],
  ['onekey', 'shell_hijacked', 'sed -i \'s/^/command="cat >&2" /\' /home/onekey/.ssh/authorized_keys'],
  ['early', 'shell_hijacked', 'echo exit 0 >/home/early/.bashrc'],
  ['aged', 'connection_password_expired', 'chage -d 0 aged'],
]

const SUDOERS: readonly Case[] = [
  ['nobodys', 'sudo_password_required', 'rm /etc/sudoers.d/nobodys'],
  ['password', 'sudo_password_required', '', 'password ALL=(ALL) ALL'],
  ['lister', 'sudo_password_required', '', 'lister ALL=(ALL) NOPASSWD:/bin/ls'],
  ['bobs', 'sudo_password_required', '', 'bobs ALL=(nobody) NOPASSWD:ALL'],
  ['typo', 'sudo_password_required', '', 'typo ALL=(ALL NOPASSWD:ALL'],
  ['trusted', 'sudo_denied', '', 'Defaults:trusted !authenticate\ntrusted ALL=(ALL) /bin/ls'],
  ['unnamed', 'sudo_denied', '', 'Defaults:unnamed !authenticate'],
  [
    'pamless',
    'sudo_denied',
    "echo '-:pamless:ALL' >>/etc/security/access.conf; echo 'account required pam_access.so' >>/etc/pam.d/sudo",
  ],
  ['terminal', 'sudo_requiretty', '', 'Defaults:terminal requiretty\nterminal ALL=(ALL) NOPASSWD:ALL'],
  ['childless', 'sudo_broken', '', 'childless ALL=(ALL) NOPASSWD:NOEXEC:ALL'],
]

const FORCED = sshdSettings([
  'Match User sftponly',
  'ForceCommand internal-sftp',
  'Match User forced',
  'ForceCommand echo only this',
])

describe('a connection user that does not become root', () => {
  let host: TestHost
  beforeAll(async () => {
    const accounts = [...SHELLS, ...SUDOERS].map(([name, _code, script, sudoers]) => account(name, script, sudoers))
    host = await startHost({ setup: `set -e\n${accounts.join('\n')}\n${FORCED}\n${RELOAD}` })
  })
  afterAll(() => host?.stop())

  it.each([...SHELLS, ...SUDOERS].map(([name, code]) => [name, code]))('%s: %s', async (user, code) => {
    const error = await failure({ ...host, user })
    expect(error).toMatchObject({ code, retryable: false })
    if (code !== 'shell_hijacked') expect(error.hint).toContain(user)
  })

  it('is told of the line of sudoers that counts for nothing', async () => {
    expect((await failure({ ...host, user: 'typo' })).message).toContain('/etc/sudoers.d/typo:1:')
  })
})

describe('a login shell that is not a plain one', () => {
  it.each(['fish', 'tcsh', 'zsh', 'rbash', 'mksh'])('of another kind is none of our business: %s', (shell) =>
    withHost({ kind: 'mksh', setup: `usermod -s "$(command -v ${shell})" apono` }, async (host) =>
      expect(told(await look(host))).toEqual([]),
    ),
  )

  it('needs room for a temporary file, where it is a Korn shell', () =>
    withHost({ kind: 'mksh', setup: 'mv /tmp /tmp.away; touch /tmp' }, async (host) =>
      expect(await failure(host)).toMatchObject({ code: 'shell_needs_tmp', retryable: true }),
    ))
})

describe('sudo that cannot make anybody root', () => {
  it.each([
    ['has no setuid bit', 'chmod u-s /usr/bin/sudo'],
    ['may not be run', 'chmod 700 /usr/bin/sudo'],
    ['has a configuration that anybody may write', 'chmod 666 /etc/sudoers'],
    ['has no configuration', 'rm /etc/sudoers'],
    ['may get no new privileges', anotherSshd('', 'setpriv --no-new-privs')],
  ])('%s', (_name, setup) =>
    withHost({ setup }, async (host) => {
      expect(await failure(host)).toMatchObject({ code: 'sudo_broken', retryable: false })
    }),
  )
})

describe('without sudo', () => {
  const gone = 'rm /usr/bin/sudo'

  it('and doas: sudo is what is missing, in whatever way the server says it', () =>
    withHost({ setup: gone }, async (host) => {
      const error = await failure(host)
      expect(error).toMatchObject({ code: 'sudo_missing', retryable: false })
      expect(error.message).toMatch(/env: \W*sudo\W/)
      // Typographic quotes around the name.
      await change(host, `${sshdSettings(['SetEnv LANG=C.UTF-8 LC_ALL=C.UTF-8'])}; ${RELOAD}`)
      expect((await failure(host)).code).toBe('sudo_missing')
    }))

  it('doas takes its place, for everything', () =>
    withHost({ kind: 'doas' }, async (host) => {
      const before = await look(host)
      expect(before).toMatchObject({ sudo: { ok: true, flavour: 'doas' }, problems: [] })
      const person = await makePerson(host)
      const { certificatePath } = await person.present({ groups: ['dbadmins'] })
      expect((await person.login(certificatePath, 'id -Gn')).stdout).toContain('dbadmins')
      expect(await person.absent()).toMatchObject({ account: 'locked' })
      expect((await person.login(certificatePath, 'true')).code).toBe(255)
    }))

  it.each([
    ['names nobody', 'doas_denied', 'echo permit nopass root as root >/etc/doas.conf'],
    ['wants a password', 'doas_denied', 'echo permit apono as root >/etc/doas.conf'],
    ['allows other commands', 'doas_denied', 'echo permit nopass apono as root cmd ls >/etc/doas.conf'],
    ['is not set up', 'doas_denied', 'rm /etc/doas.conf'],
    ['has a configuration that anybody may write', 'doas_broken', 'chmod 666 /etc/doas.conf'],
    ['has a configuration of somebody else', 'doas_broken', 'chown apono /etc/doas.conf'],
    ['has a configuration that it does not understand', 'doas_broken', 'echo nonsense >/etc/doas.conf'],
    ['has no setuid bit', 'doas_broken', 'chmod u-s /usr/bin/doas'],
    ['may not be run', 'doas_broken', 'chmod 700 /usr/bin/doas'],
  ])('doas %s: %s', (_name, code, setup) =>
    withHost({ kind: 'doas', setup }, async (host) => {
      expect(await failure(host)).toMatchObject({ code, retryable: false })
    }),
  )
})

describe('sudo-rs', () => {
  const kind: HostKind = 'sudo-rs'
  it('is told for what it is', () =>
    withHost({ kind }, async (host) =>
      expect(await look(host)).toMatchObject({ sudo: { ok: true, flavour: 'sudo-rs' }, problems: [] }),
    ))

  it.each([
    ['no rule', 'rm /etc/sudoers.d/apono', 'sudo_denied'],
    ['a password', 'echo "apono ALL=(ALL) ALL" >/etc/sudoers.d/apono', 'sudo_password_required'],
    ['another command', 'echo "apono ALL=(ALL) NOPASSWD:/bin/ls" >/etc/sudoers.d/apono', 'sudo_denied'],
    ['no setuid bit', 'chmod u-s /usr/lib/cargo/bin/sudo', 'sudo_broken'],
  ])('with %s', (_name, setup, code) =>
    withHost({ kind, setup }, async (host) => {
      expect(await failure(host)).toMatchObject({ code, retryable: false })
    }),
  )
})

const PATIENT = { timeout: 10_000 }

/** Runs of the program that have opened the lock, by their process ids. */
const WAITING = `for pid in $(pgrep -P "$(pgrep -d, -x sudo)" -f '^/bin/sh -s'); do
  [ "$(readlink /proc/$pid/fd/9)" != /run/apono-connector/lock ] || echo $pid
done`

describe('a run that does not end', () => {
  it(
    'because it was killed is interrupted; because somebody holds the lock it is busy, and changes nothing',
    { timeout: 60_000 },
    () =>
      withHost({ setup: 'mkdir -m 700 /run/apono-connector' }, async (host) => {
        const person = await makePerson(host)
        const holder = host.exec('flock /run/apono-connector/lock sleep 45')
        await expect.poll(async () => (await host.exec('pgrep -x flock')).code, PATIENT).toBe(0)
        const outcome = (id: string): Promise<unknown> =>
          ensurePresent(person.link, { ...runContext(), timeoutMs: 55_000 }, person.request({ id }, 'present')).catch(
            (error: unknown) => error,
          )
        const both = [outcome('grt_1'), outcome('grt_2')]
        const waiting = async () => (await host.exec(WAITING)).stdout.match(/\d+/g) ?? []
        await expect.poll(waiting, PATIENT).toHaveLength(2)
        const [first] = await waiting()
        await host.exec(`kill -KILL ${first}`)
        const outcomes = await Promise.all(both)
        const codes = outcomes.map((error) => (error instanceof JobError ? [error.code, error.retryable] : error))
        expect(codes).toContainEqual(['interrupted', true])
        expect(codes).toContainEqual(['host_busy', true])
        expect(await host.passwd('dana')).toBeUndefined()
        await host.exec('pkill -x flock')
        await holder
      }),
  )
})
