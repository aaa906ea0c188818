import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cleanup, ensureAbsent, ensurePresent, uninstall } from '../../src/host/host-program.ts'
import { Policy } from '../../src/protocol/integration.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { functions, killableLink, killPoints } from './kill-points.ts'
import { type GrantOptions, makePerson, type Person, runContext } from './person.ts'

describe('the list of kill points', () => {
  /** Commands that change something, where a command can stand. */
  const changes = new RegExp(
    [
      String.raw`(?:^|[;&|({]|\bthen|\bdo|\belse|!|\bpatiently|\bbounded)\s*(?:useradd|usermod|userdel|groupadd|groupdel|gpasswd|rm|rmdir|mv|cp|mkdir|chmod|chown|kill|atrm)\s`,
      'systemctl (?:-q )?(?:daemon-reload|enable|disable|kill|reload|restart|try-restart)',
      'loginctl disable-linger',
      String.raw`crontab (?:-u "\$1" )?(?:-r|-)(?:\s|;|$)`,
      String.raw`\d?>>?"\$(?:STATE|RUN|KEYS|file|new)`,
      String.raw`as_login "\$HOME_TRUST"`,
    ].join('|'),
    'm',
  )
  /** `aside` is part of a text that runs as the person, in one go; `ask_sshd` makes the folder that sshd wants to be asked. */
  const harmless = new Set(['aside', 'ask_sshd'])

  it('has every function that changes the server by itself', () => {
    const unlisted = [...functions()]
      .filter(([name, text]) => changes.test(text) && !killPoints.includes(name) && !harmless.has(name))
      .map(([name]) => name)
    expect(unlisted).toEqual([])
  })

  it('has nothing but functions of the program', () => {
    const known = functions()
    expect(killPoints.filter((name) => !known.has(name))).toEqual([])
    expect(killPoints.length).toBeGreaterThan(15)
  })
})

/** One grant that is made or ended, killed on the way, and asked for again. */
interface Story {
  readonly name: string
  readonly prepare: (of: Act) => Promise<unknown>
  readonly act: (of: Act) => Promise<unknown>
  readonly proof: (of: Act, outcome: unknown) => Promise<void>
}

interface Act {
  readonly person: Person
  readonly grant: GrantOptions & { readonly id: string; readonly login: string }
  present(more?: GrantOptions): Promise<string>
  absent(more?: GrantOptions): Promise<unknown>
  /** Ends whatever was granted. */
  over(): Promise<void>
}

let host: TestHost
let person: Person
let killable: ReturnType<typeof killableLink>
beforeAll(async () => {
  host = await startHost({ setup: 'useradd -m -s /bin/bash adopted' })
  person = await makePerson(host, join(scratchDirectory(), 'kill'))
  killable = killableLink(host, person.link)
  await killable.live()
})
afterAll(() => host?.stop())

let serial = 0
const actor = async (): Promise<Act> => {
  const login = `kim${++serial}`
  const grant = { id: `grt_${serial}`, login, groups: ['dbadmins'] }
  const given = new Map<string, GrantOptions>()
  return {
    person,
    grant,
    over: async () => {
      for (const one of given.values()) await person.absent({ ...one, generation: 9 })
    },
    present: async (more = {}) => {
      const one = { ...grant, ...more }
      given.set(one.id, one)
      const wanted = person.request(one, 'present')
      await ensurePresent(killable.link, runContext(), wanted)
      return person.keep(wanted.certificate)
    },
    absent: (more = {}) =>
      ensureAbsent(killable.link, runContext(), person.request({ generation: 2, ...grant, ...more }, 'absent')),
  }
}

const groupsBy = async (certificate: string, login: string) => {
  const { code, stdout } = await person.login(certificate, 'id -Gn', login)
  return code === 0 ? stdout.trim().split(' ') : 'refused'
}

const isGone = async ({ grant: { login } }: Act, certificate: string | undefined) => {
  const account = await host.passwd(login)
  if (account) expect(await host.processesOf(account.uid)).toEqual([])
  expect((await host.exec(`ls /etc/ssh/apono-connector/${login}`)).code).not.toBe(0)
  expect((await host.exec('grep ^dbadmins: /etc/group')).stdout).not.toContain(login)
  if (certificate !== undefined) expect(await groupsBy(certificate, login)).toBe('refused')
}

const certificates = new Map<string, string>()
const remember = (of: Act, certificate: string) => void certificates.set(of.grant.login, certificate)
const remembered = (of: Act) => certificates.get(of.grant.login) ?? ''

const stories: readonly Story[] = [
  {
    name: 'the very first grant on a server',
    prepare: () => uninstall(person.link, runContext(), { keepUids: false, homes: 'delete' }),
    act: (of) => of.present(),
    proof: async (of, certificate) => {
      expect(await groupsBy(String(certificate), of.grant.login)).toContain('dbadmins')
      await of.absent()
      await isGone(of, String(certificate))
    },
  },
  {
    name: 'the first grant of a login',
    prepare: async () => undefined,
    act: (of) => of.present(),
    proof: async (of, certificate) => expect(await groupsBy(String(certificate), of.grant.login)).toContain('dbadmins'),
  },
  {
    name: 'a grant that comes back with other groups, in the home',
    prepare: (of) => of.present({ policy: { trust: 'home' } }),
    act: (of) => of.present({ generation: 2, groups: ['deploy'], policy: { trust: 'home' } }),
    proof: async (of, certificate) => {
      const groups = await groupsBy(String(certificate), of.grant.login)
      expect(groups).toContain('deploy')
      expect(groups).not.toContain('dbadmins')
    },
  },
  {
    name: 'the end',
    prepare: async (of) => {
      const certificate = await of.present()
      remember(of, certificate)
      await person.login(
        certificate,
        'setsid nohup sleep 900 >/dev/null 2>&1 </dev/null & echo "@daily x" | crontab -',
        of.grant.login,
      )
    },
    act: (of) => of.absent(),
    proof: async (of, result) => {
      // Told whole, however often it had to be begun.
      expect(result).toMatchObject({ account: 'locked', processesLeft: 0, groupsRemoved: ['dbadmins'] })
      expect(await host.shadow(of.grant.login)).toMatchObject({ expires: '1' })
      await isGone(of, remembered(of))
    },
  },
  {
    name: 'the end of one of two grants',
    prepare: async (of) => {
      await of.present()
      remember(of, await of.present({ id: `${of.grant.id}b`, groups: ['deploy'] }))
    },
    act: (of) => of.absent(),
    proof: async (of) => {
      const groups = await groupsBy(remembered(of), of.grant.login)
      expect(groups).toContain('deploy')
      expect(groups).not.toContain('dbadmins')
    },
  },
  {
    name: 'the end of an adopted login’s grant',
    prepare: (of) => of.present({ login: 'adopted', policy: { existingUser: 'adopt' } }),
    act: (of) => of.absent({ login: 'adopted', policy: { existingUser: 'adopt' } }),
    proof: async (_of, result) => {
      expect(result).toMatchObject({ account: 'kept', sessionsEnded: null })
      expect(await host.groupsOf('adopted')).toEqual(['adopted'])
      expect((await host.exec('ls /etc/ssh/sshd_config.d/')).stdout).not.toContain('adopted')
      expect(await host.shadow('adopted')).toMatchObject({ expires: '' })
    },
  },
  {
    name: 'cleanup',
    prepare: async (of) => {
      await of.present()
      await of.absent()
    },
    act: (of) => cleanup(killable.link, runContext(), { login: of.grant.login, policy: Policy.parse({}) }),
    proof: async (of, result) => {
      expect(result).toMatchObject({ account: 'deleted' })
      expect(await host.passwd(of.grant.login)).toBeUndefined()
      expect((await host.exec(`ls -d /home/${of.grant.login}; ls /home/.apono-connector/`)).stdout).toContain(
        of.grant.login,
      )
    },
  },
  {
    name: 'uninstall',
    prepare: async (of) => {
      // Of what the other stories left, which takes its time.
      await uninstall(person.link, { ...runContext(), timeoutMs: 300_000 }, { keepUids: false, homes: 'delete' })
      await of.present()
      await of.absent()
    },
    act: () => uninstall(killable.link, runContext(), { keepUids: false, homes: 'delete' }),
    proof: async (of) => {
      expect(await host.passwd(of.grant.login)).toBeUndefined()
      const left = await host.exec(
        'ls -d /var/lib/apono-connector /etc/ssh/apono-connector /home/.apono-connector /etc/cron.d/apono-connector; grep apono- /etc/group; ls /etc/ssh/sshd_config.d',
      )
      expect(left.stdout).toBe('')
    },
  },
]

describe('killed before every change that it makes, it comes through when it is asked again', () => {
  it.each(stories)(
    '$name',
    async ({ prepare, act, proof }) => {
      const whole = await actor()
      await prepare(whole)
      await killable.live()
      const outcome = await act(whole)
      const calls = await killable.calls()
      await proof(whole, outcome)
      await whole.over()
      expect(calls).toBeGreaterThan(3)
      for (let call = 1; call <= calls; call++) {
        const one = await actor()
        await prepare(one)
        await killable.dieAt(call)
        const died = await act(one).then(
          () => 'lived',
          (error: { code: string }) => error.code,
        )
        // It may have come through with fewer calls than were counted.
        if (died !== 'interrupted') expect([died, (await killable.calls()) < call]).toEqual(['lived', true])
        await killable.live()
        await proof(one, await act(one))
        await one.over()
      }
    },
    240_000,
  )
})
