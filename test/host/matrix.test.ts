import { join } from 'node:path'
import { beforeAll, describe, expect, it, vi } from 'vitest'
import { ensureAbsent, inspect } from '../../src/host/host-program.ts'
import type { AbsentResult, InspectResult } from '../../src/protocol/results.ts'
import { missingBase } from '../hosts/bases.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { hostImage } from '../hosts/image.ts'
import type { HostKind } from '../hosts/kinds.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { type GrantOptions, makePerson, openSshLink, type Person, runContext } from './person.ts'

/**
 * The whole story of access, on every kind of server that can be had here. docs/testing.md says which there are and
 * which can't be.
 */
interface Row {
  readonly name: string
  readonly kind: HostKind
  readonly os: string
  readonly version: RegExp
  readonly flavour?: InspectResult['sudo']['flavour']
  /** Default: both. Without drop-ins for sshd there is only `home`. */
  readonly trusts?: readonly Trust[]
  /** Makes the server another one; its sshd is started anew afterwards. */
  readonly setup?: string
  readonly pam?: false
  /** The login's; default /bin/bash. */
  readonly shell?: string
}
type Trust = 'root_file' | 'home'

// An sshd without PAM takes a `!` for a lock; the connection user of such a server has a `*`.
const NO_PAM = `usermod -p '*' apono && sed -i -E '/^#?UsePAM/d' /etc/ssh/sshd_config && sed -i '1i UsePAM no' /etc/ssh/sshd_config`

const debian11 = { kind: 'debian11', os: 'debian', version: /^11$/ } as const
const debian12 = { kind: 'debian', os: 'debian', version: /^12$/ } as const
const debian13 = { kind: 'debian13', os: 'debian', version: /^13$/ } as const

const rows: readonly Row[] = [
  { name: 'Debian 11', ...debian11 },
  { name: 'Debian 11, UsePAM no', ...debian11, setup: NO_PAM, pam: false },
  { name: 'Debian 12', ...debian12 },
  { name: 'Debian 12, UsePAM no', ...debian12, setup: NO_PAM, pam: false },
  { name: 'Debian 13', ...debian13 },
  { name: 'Debian 13, UsePAM no', ...debian13, setup: NO_PAM, pam: false },
  { name: 'systemd', ...debian12, kind: 'systemd' },
  { name: 'sudo-rs', ...debian13, kind: 'sudo-rs', flavour: 'sudo-rs' },
  { name: 'doas', ...debian12, kind: 'doas', flavour: 'doas' },
  { name: 'bash as /bin/sh', ...debian12, setup: 'ln -sf bash /bin/sh' },
  { name: 'mksh as /bin/sh', ...debian12, kind: 'mksh' },
  { name: 'LDAP', ...debian12, kind: 'ldap' },
  { name: 'Ubuntu 24.04', kind: 'ubuntu', os: 'ubuntu', version: /^24\.04$/ },
  { name: 'Rocky Linux 8', kind: 'rocky8', os: 'rocky', version: /^8\./, trusts: ['home'] },
  { name: 'Rocky Linux 9', kind: 'rocky9', os: 'rocky', version: /^9\./ },
  { name: 'openSUSE Leap', kind: 'opensuse', os: 'opensuse-leap', version: /^15\./ },
  { name: 'Arch Linux', kind: 'arch', os: 'arch', version: /^/ },
]

for (const kind of new Set(rows.map((row) => row.kind))) {
  const base = missingBase(kind)
  if (base !== undefined) process.stderr.write(`not exercised here: ${base} cannot be pulled\n`)
}

const STORY_MS = 90_000
// expect.poll knows only one test at a time.
const PATIENCE_MS = 20_000
const LOGIN = 'nina'

describe.each(rows.filter(({ kind }) => missingBase(kind) === undefined))('$name', (row) => {
  const [first = 'home', second] = row.trusts ?? (['root_file', 'home'] as const)

  // Only where nobody called `npm test`, which has made it, does this take long.
  beforeAll(() => hostImage(row.kind), 600_000)

  it.concurrent('gives access, ends it and gives it again', { timeout: STORY_MS }, () =>
    onHost(row, async (host) => {
      await isUnderstood(host, row)
      await wholeStory(host, policyOf(row, first))
    }),
  )

  if (second === undefined) return
  it.concurrent(`does so with trust in ${second}`, { timeout: STORY_MS }, () =>
    onHost(row, (host) => shortStory(host, policyOf(row, second))),
  )
})

const policyOf = ({ shell = '/bin/bash' }: Row, trust: Trust) => ({ trust, shell })
type StoryPolicy = ReturnType<typeof policyOf>

/** One host for each story: OpenSSH 9.8 and later shut out an address from which too many logins fail. */
const onHost = async (row: Row, act: (host: TestHost) => Promise<void>): Promise<void> => {
  const host = await startHost({ kind: row.kind })
  try {
    if (row.setup !== undefined) await becomeAnother(host, row.setup)
    await act(host)
  } finally {
    await host.stop()
  }
}

const becomeAnother = async (host: TestHost, setup: string): Promise<void> => {
  const starts = async () => (await host.log()).split('Server listening on 0.0.0.0').length - 1
  const before = await starts()
  const { code, stderr } = await host.exec(`{ ${setup}; } && pkill -HUP -o -x sshd`)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  await vi.waitFor(async () => expect(await starts()).toBe(before + 1), PATIENCE_MS)
}

const isUnderstood = async (host: TestHost, row: Row): Promise<void> => {
  const result = await inspect(await openSshLink(host), runContext())
  expect(result.os.id).toBe(row.os)
  expect(result.os.versionId).toMatch(row.version)
  expect(result.sudo).toEqual({ ok: true, flavour: row.flavour ?? 'sudo' })
  expect(result.ssh.usePam).toBe(row.pam ?? true)
  expect(result.trust.toSorted()).toEqual((row.trusts ?? ['home', 'root_file']).toSorted())
  expect(result.groups).toEqual(expect.arrayContaining(['dbadmins', 'developers']))
  expect(result.problems.filter(({ severity }) => severity === 'error')).toEqual([])
}

/** What is known of the one login of a story. */
interface Story {
  readonly host: TestHost
  readonly person: Person
  readonly policy: StoryPolicy
  readonly uid: number
}

/** The first grant makes the login; what it may is seen by whoever logs in. */
const begin = async (host: TestHost, policy: StoryPolicy, grant: GrantOptions) => {
  const person = await makePerson(host, join(scratchDirectory(), 'control'))
  const { reply, certificatePath } = await person.present({ ...grant, login: LOGIN, policy })
  expect(reply).toMatchObject({
    createdLogin: true,
    trust: policy.trust,
    groupsAdded: grant.groups,
    changed: true,
    onHostExpiry: 'full',
  })
  expect(await host.passwd(LOGIN)).toMatchObject({ uid: reply.uid, home: `/home/${LOGIN}`, shell: policy.shell })
  expect(await host.shadow(LOGIN)).toMatchObject({ hash: '*', expires: '' })
  const story: Story = { host, person, policy, uid: reply.uid }
  await seesGroups(story, certificatePath, grant.groups ?? [])
  return { story, certificatePath }
}

const wholeStory = async (host: TestHost, policy: StoryPolicy): Promise<void> => {
  const { story, certificatePath } = await begin(host, policy, { id: 'grt_one', groups: ['dbadmins'] })
  const second = await addGrant(story, { id: 'grt_two', groups: ['developers'] })
  await seesGroups(story, certificatePath, ['dbadmins', 'developers'])

  // Fewer groups: what ran with more of them ends, and who comes anew has what is left.
  const end = () => story.person.absent({ id: 'grt_one', login: LOGIN, groups: ['dbadmins'], policy })
  expect(await endsLife(story, second, end)).toMatchObject({ account: 'kept', groupsRemoved: ['dbadmins'] })
  await isOut(story, certificatePath)
  await seesGroups(story, second, ['developers'])
  await endAndComeBack(story, second, { id: 'grt_two', groups: ['developers'] })
}

const shortStory = async (host: TestHost, policy: StoryPolicy): Promise<void> => {
  const grant = { id: 'grt_one', groups: ['dbadmins'] }
  const { story, certificatePath } = await begin(host, policy, grant)
  await endAndComeBack(story, certificatePath, grant)
}

const addGrant = async ({ person, policy, uid }: Story, grant: GrantOptions): Promise<string> => {
  const { reply, certificatePath } = await person.present({ ...grant, login: LOGIN, policy })
  expect(reply).toMatchObject({ createdLogin: false, uid, groupsAdded: grant.groups ?? [] })
  return certificatePath
}

/** The last grant ends, its proof is given again, and a new grant brings the same login back. */
const endAndComeBack = async (story: Story, certificatePath: string, grant: GrantOptions): Promise<void> => {
  const { host, person, policy } = story
  const request = person.request({ ...grant, login: LOGIN, generation: 2, policy }, 'absent')
  const end = () => ensureAbsent(person.link, runContext(), request)
  const proof = await endsLife(story, certificatePath, end)
  expect(proof).toMatchObject({ account: 'locked', groupsRemoved: grant.groups })
  await isOut(story, certificatePath)
  const locked = await host.shadow(LOGIN)
  expect(locked?.hash).toMatch(/^!/)
  expect(locked?.expires).toBe('1')
  expect(await host.groupsOf(LOGIN)).toEqual([LOGIN, managed(policy.trust)])
  expect(await end()).toEqual({ ...proof, changed: false })

  const again = await addGrant(story, { id: 'grt_again' })
  await seesGroups(story, again, [])
}

const managed = (trust: Trust): string => (trust === 'home' ? 'apono-managed-home' : 'apono-managed')

const seesGroups = async (story: Story, certificatePath: string, groups: readonly string[]): Promise<void> => {
  const { code, stdout, stderr } = await story.person.login(certificatePath, 'id -un && id -Gn', LOGIN)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  const [name, seen = ''] = stdout.trim().split('\n')
  expect(name).toBe(LOGIN)
  expect(new Set(seen.split(' '))).toEqual(new Set([LOGIN, managed(story.policy.trust), ...groups]))
}

const isOut = async ({ person }: Story, certificatePath: string): Promise<void> => {
  expect((await person.login(certificatePath, 'true', LOGIN)).code).toBe(255)
}

/** Somebody is logged in and has left a job that outlives the login; `end` ends both. */
const endsLife = async (story: Story, certificatePath: string, end: () => Promise<AbsentResult>) => {
  const commands = async () => (await story.host.processesOf(story.uid)).map(({ command }) => command)
  const session = story.person.stay(certificatePath, LOGIN)
  await session.ready
  session.write('setsid nohup sleep 3600 >/dev/null 2>&1 &\n')
  await vi.waitFor(async () => expect(await commands()).toContain('sleep 3600'), PATIENCE_MS)
  const result = await end()
  expect(result).toMatchObject({ processesLeft: 0, sessionsEnded: 1 })
  expect(await session.closed).toBe(255)
  expect(await commands()).toEqual([])
  return result
}
