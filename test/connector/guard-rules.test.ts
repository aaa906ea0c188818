import { isIP } from 'node:net'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { adoptionBeyondFile } from '../../src/connector/file-limits.ts'
import { contains, parseAddress, parseNetwork } from '../../src/connector/networks.ts'
import { EnsureJob } from '../../src/protocol/job.ts'
import { type Asked, answerTo, ask, FILE, jobOf, rulesOf, to } from './guard-setup.ts'
import { HOUR } from './jobs.ts'

const DENIED = /^denied_by_guard: /
const behind = (host: string, jump: object = {}): Asked => ({
  host,
  jumps: [{ host: 'bastion', user: 'apono', ...jump }],
})

describe('hosts of a guard file', () => {
  const names = {
    hosts: ['db-1.example.com', '*.prod.example.com', 'wide.example.com:*', 'range.example.com:2200-2299'],
  }
  test.each([
    ['db-1.example.com', 22, true],
    ['DB-1.Example.COM', 22, true],
    ['db-1.example.com', 2222, false],
    ['db-1.example.com.', 22, false],
    ['db-1.example.com.evil.com', 22, false],
    ['xdb-1.example.com', 22, false],
    ['a.prod.example.com', 22, true],
    ['a.b.prod.example.com', 22, true],
    ['prod.example.com', 22, false],
    ['xprod.example.com', 22, false],
    ['a..prod.example.com', 22, false],
    ['a:b.prod.example.com', 22, false],
    ['wide.example.com', 1, true],
    ['range.example.com', 2200, true],
    ['range.example.com', 2299, true],
    ['range.example.com', 2300, false],
    ['range.example.com', 22, false],
    ['10.0.0.5', 22, false],
  ])('%s:%i by name: %s', async (host, port, admitted) => {
    const { answer, lookups } = await ask(names, { host, port })
    expect(answer).toMatch(admitted ? /^admitted$/ : DENIED)
    // No network rule could have let it in, so nobody was asked.
    expect(lookups).toEqual(admitted ? [host] : [])
  })

  const networks = { hosts: ['10.1.0.0/16:22', '10.2.0.1', '192.168.0.0/24:2222', '[2001:db8::/32]:22'] }
  test.each([
    ['10.1.2.3', 22, true],
    ['10.1.2.3', 23, false],
    ['10.2.0.1', 22, true],
    ['10.2.0.2', 22, false],
    ['::ffff:10.1.2.3', 22, true],
    ['::ffff:10.3.2.3', 22, false],
    ['::ffff:a03:203', 22, false],
    ['2001:db8::9', 22, true],
    ['2001:db9::9', 22, false],
    ['192.168.0.1', 22, false],
    ['192.168.0.1', 2222, true],
  ])('%s:%i by network: %s', async (host, port, admitted) => {
    const expected = admitted ? /^admitted$/ : DENIED
    expect(await answerTo(networks, { host, port }, to(host))).toMatch(expected)
    const jump = { host: '10.1.0.1' }
    expect(await answerTo(networks, { ...behind(host, jump), port }, to('10.1.0.1'))).toMatch(expected)
  })

  test.each([
    [['10.1.0.1', '10.1.9.9'], true],
    [['10.1.0.1', '2001:db8::1'], true],
    [['10.1.0.1', '10.9.0.1'], false],
    [['10.1.0.1', '2001:db9::1'], false],
    [['::ffff:10.1.0.1'], true],
    [['::ffff:10.9.0.1'], false],
    [['10.1.0.1', '169.254.169.254'], false],
  ])('a name is in the networks if all its addresses are: %j %s', async (addresses, admitted) => {
    expect(await answerTo(networks, { host: 'any.name' }, to(...addresses))).toMatch(admitted ? /^admitted$/ : DENIED)
  })

  test.each(['127.1', '0x7f.1', '2130706433', '10.1', '0xa010001', '012.1.0.1', '10.1.0.1.'])(
    'an address in another notation (%s) is none, wherever it stands',
    async (host) => {
      expect(await answerTo({ hosts: ['10.0.0.0/8:*', '*.com'] }, { host })).toMatch(DENIED)
      expect(await answerTo({ hosts: ['10.0.0.0/8:*', 'bastion'] }, behind(host))).toMatch(DENIED)
    },
  )

  test('every jump host and the server are held to it; what is behind one is never looked up here', async () => {
    const rules = { hosts: ['bastion', 'inner:2222', 'db-1', '10.1.0.0/16'] }
    const way = (host: string, inner: object): Asked => ({
      host,
      jumps: [
        { host: 'bastion', user: 'apono' },
        { host: 'inner', port: 2222, user: 'apono', ...inner },
      ],
    })
    expect(await ask(rules, way('db-1', {}))).toMatchObject({ answer: 'admitted', lookups: ['bastion'] })
    expect(await ask(rules, way('10.1.0.1', {}))).toMatchObject({ answer: 'admitted' })
    for (const asked of [
      way('db-1', { port: 22 }),
      way('db-1', { host: 'else' }),
      way('db-2', {}),
      way('10.2.0.1', {}),
    ]) {
      expect(await ask(rules, asked)).toMatchObject({ answer: expect.stringMatching(DENIED), lookups: [] })
    }
    // Over there a name may be anything: a network is no reason to let it in.
    expect(await answerTo({ hosts: ['bastion', '10.0.0.0/8'] }, behind('any.name'))).toMatch(DENIED)
  })

  test.each(['169.254.169.254', 'fd20:ce::254', '127.0.0.1', '::1', '::ffff:127.0.0.1'])(
    '%s stays denied whatever the file says',
    async (address) => {
      const all = { hosts: ['0.0.0.0/0:*', '[::/0]:*', '*.com:*', 'db-1', 'bastion'] }
      expect(await answerTo(all, { host: address }, to(address))).toMatch(DENIED)
      expect(await answerTo(all, { host: 'db-1' }, to(address))).toMatch(DENIED)
      expect(await answerTo(all, { host: 'any.name' }, to(address))).toMatch(DENIED)
      expect(await answerTo(all, behind(address))).toMatch(DENIED)
    },
  )

  test('the denial names the rule and what to add', async () => {
    const { answer, hint } = await ask(networks, { host: 'db-9.example.com', port: 2200 })
    expect(answer).toBe(`denied_by_guard: hosts: db-9.example.com:2200 is in none of the 4 rules of ${FILE}`)
    expect(hint).toBe(`If this should be allowed: add "db-9.example.com:2200" to hosts in ${FILE}.`)
    const v6 = await ask({ hosts: ['a'] }, { host: '2001:db8::1' })
    expect(v6.answer).toContain('hosts: [2001:db8::1]:22 is not in the 1 rule of')
    // What it says is a rule that does it.
    expect(await answerTo({ hosts: ['[2001:db8::1]:22'] }, { host: '2001:db8::1' }, to('2001:db8::1'))).toBe('admitted')
    expect(await answerTo({ hosts: [] }, {})).toMatch(/in none of the 0 rules/)
  })

  test('no rule ever admits an address outside it', async () => {
    let admitted = 0
    const rule = fc.tuple(fc.ipV4(), fc.nat(32), fc.constantFrom('22', '1-30', '*', '23'))
    const address = fc.oneof(
      fc.ipV4(),
      fc.ipV6(),
      fc.ipV4().map((text) => `::ffff:${text}`),
    )
    const holds = fc.asyncProperty(
      fc.array(rule, { maxLength: 4 }),
      fc.array(address, { minLength: 1, maxLength: 3 }),
      async (written, found) => {
        const hosts = written.map(([base, prefix, ports]) => {
          const bits = (parseAddress(base)?.bits ?? 0n) & ~((1n << BigInt(32 - prefix)) - 1n)
          const quad = [24n, 16n, 8n, 0n].map((shift) => String((bits >> shift) & 255n)).join('.')
          return { text: `${quad}/${prefix}:${ports}`, network: parseNetwork(`${quad}/${prefix}`), ports }
        })
        const at22 = hosts.filter(({ ports }) => ports !== '23')
        const answer = await answerTo({ hosts: hosts.map(({ text }) => text) }, { host: 'any.name' }, to(...found))
        const inside = (text: string): boolean => {
          const parsed = parseAddress(text)
          return parsed !== null && at22.some(({ network }) => network !== null && contains(network, parsed))
        }
        if (answer !== 'admitted') return
        admitted++
        expect(found.every((text) => isIP(text) > 0 && inside(text))).toBe(true)
      },
    )
    await fc.assert(holds, { numRuns: 500 })
    expect(admitted).toBeGreaterThan(10)
  })
})

describe('secrets of a guard file', () => {
  const aws = (secretId: string, region = 'eu-west-1') => ({ type: 'aws', region, secretId })
  const arn = (name: string, account = '123456789012', region = 'eu-west-1') =>
    `arn:aws:secretsmanager:${region}:${account}:secret:${name}`
  const gcp = (project: string, secretId: string) => ({ type: 'gcp', project, secretId })
  const azure = (vaultUrl: string, name: string) => ({ type: 'azure', vaultUrl, name })
  const kubernetes = (namespace: string, name: string) => ({ type: 'kubernetes', namespace, name })
  const vault = (secretEngine: string, path: string) => ({ type: 'hashicorp_vault', secretEngine, path })
  const file = (path: string) => ({ type: 'file', path })

  test.each([
    [{ store: 'aws', prefix: 'ssh/' }, aws('ssh/db'), true],
    [{ store: 'aws', prefix: 'ssh/' }, aws('ssh'), false],
    [{ store: 'aws', name: 'ssh/db' }, aws('ssh/db'), true],
    [{ store: 'aws', name: 'ssh/db' }, aws('ssh/db2'), false],
    [{ store: 'aws', prefix: 'a' }, aws(arn('ssh/db')), false],
    [{ store: 'aws', prefix: 'arn' }, aws(arn('ssh/db')), false],
    [{ store: 'aws', prefix: arn('ssh/') }, aws(arn('ssh/db')), true],
    [{ store: 'aws', prefix: arn('ssh/') }, aws(arn('ssh/db', '999999999999')), false],
    [{ store: 'aws', prefix: arn('ssh/') }, aws('ssh/db'), false],
    [{ store: 'aws', prefix: 'ssh/', region: 'eu-west-1' }, aws('ssh/db'), true],
    [{ store: 'aws', prefix: 'ssh/', region: 'eu-west-1' }, aws('ssh/db', 'us-east-1'), false],
    [
      { store: 'aws', prefix: 'arn:aws:secretsmanager:us-east-1:123456789012:secret:', region: 'eu-west-1' },
      aws(arn('x', '123456789012', 'us-east-1')),
      false,
    ],
    [
      { store: 'aws', prefix: 'arn:aws:secretsmanager:us-east-1:123456789012:secret:', region: 'us-east-1' },
      aws(arn('x', '123456789012', 'us-east-1')),
      true,
    ],
    [{ store: 'gcp', prefix: 'my-project/ssh-' }, gcp('my-project', 'ssh-db'), true],
    [{ store: 'gcp', prefix: 'my-project/' }, gcp('my-project-evil', 'ssh-db'), false],
    [{ store: 'gcp', name: 'my-project/ssh-db' }, gcp('my-project', 'ssh-db'), true],
    [{ store: 'gcp', prefix: 'my-project/' }, kubernetes('my-project', 'ssh'), false],
    [
      { store: 'azure', prefix: 'my-vault.vault.azure.net/ssh-' },
      azure('https://My-Vault.vault.azure.net/', 'SSH-db'),
      true,
    ],
    [{ store: 'azure', name: 'My-Vault.vault.azure.net/Ssh' }, azure('https://my-vault.vault.azure.net', 'ssh'), true],
    [{ store: 'azure', prefix: 'my-vault.vault.azure.net/' }, azure('https://my-vault.vault.azure.cn', 'ssh'), false],
    [{ store: 'azure', prefix: 'my-vault.vault.azure.net/' }, azure('https://x.vault.azure.net', 'ssh'), false],
    [{ store: 'kubernetes', prefix: 'apono/' }, kubernetes('apono', 'ssh'), true],
    [{ store: 'kubernetes', prefix: 'apono/' }, kubernetes('apono-2', 'ssh'), false],
    [{ store: 'hashicorp_vault', prefix: 'kv/ssh/' }, vault('kv', 'ssh/db'), true],
    [{ store: 'hashicorp_vault', prefix: 'kv/ssh/' }, vault('kv', 'other'), false],
    [{ store: 'hashicorp_vault', prefix: 'kv/' }, vault('kv2', 'ssh'), false],
    [{ store: 'file', prefix: '/secrets/prod/' }, file('/secrets/prod/ssh.json'), true],
    [{ store: 'file', prefix: '/secrets/prod/' }, file('/secrets/prod-2/ssh.json'), false],
    [{ store: 'file', prefix: '/' }, file('/etc/ssh.json'), false],
    [{ store: 'file', name: '/secrets/ssh.json' }, file('/secrets/ssh.json'), true],
  ])('%j and %j: %s', async (rule, secretStore, admitted) => {
    const rules = { secrets: [rule] }
    const expected = admitted ? /^admitted$/ : DENIED
    expect(await answerTo(rules, { secretStore })).toMatch(expected)
    expect(await answerTo(rules, { secretStore, kind: 'inspect' })).toMatch(expected)
    expect(await answerTo(rules, { secretStore, kind: 'cleanup' })).toMatch(expected)
    expect(await answerTo(rules, { secretStore, grant: { state: 'absent' } })).toMatch(expected)
    // A jump host's own as well.
    const both = { secrets: [rule, { store: 'file', name: '/secrets/ssh.json' }] }
    expect(await answerTo(both, behind('db-1', { secretStore }))).toMatch(expected)
  })

  test.each([
    aws('ssh/db?x'),
    aws('ssh db'),
    aws('ssh/db', 'evil.example/'),
    aws('ssh/db', 'eu-west-1.evil.example'),
    aws('arn:aws:iam::123456789012:role/x'),
    aws(arn('x', '123456789012', 'evil.example#')),
    aws('x:y'),
    gcp('my-project/secrets/x/versions/1?', 'y'),
    gcp('my-project', 'a/b'),
    gcp('my-project', '../x'),
    azure('https://x.vault.azure.net:444', 'y'),
    azure('https://x.vault.azure.net@evil.example', 'y'),
    azure('https://evil.example/x.vault.azure.net', 'y'),
    azure('http://x.vault.azure.net', 'y'),
    azure('https://x.vault.azure.net', 'y/versions'),
    azure('https://x.vault.azure.net', 'y?api-version=1'),
    kubernetes('ns/secrets/x', 'y'),
    kubernetes('ns', 'y?watch=1'),
    kubernetes('ns', 'Y'),
    vault('kv', '/ssh'),
    vault('kv/', 'ssh'),
    vault('kv', 'a//b'),
    vault('kv', 'a/./b'),
    vault('kv', 'a%2e%2e/b'),
    vault('kv', 'a?list=true'),
    vault('kv', 'a#b'),
    vault('kv', 'a\n'),
    vault('kv', 'a '),
    file('/secrets//ssh.json'),
    file('/secrets/./ssh.json'),
    file('/secrets/a\u0000'),
    file('/secrets/a\u001b[31m'),
    file('/secrets/\u202egpj.hss'),
    file('/secrets/'),
  ])('%j is refused with or without a file, and none of it is told', async (secretStore) => {
    for (const content of [null, { secrets: [{ store: secretStore.type, prefix: 'x/' }] }]) {
      if (secretStore.type === 'azure' && content !== null) continue
      if (secretStore.type === 'file' && content !== null) continue
      const { answer, hint } = await ask(content, { secretStore })
      expect(answer).toMatch(DENIED)
      expect(hint).toMatch(/stands whatever/)
      const told = Object.values(secretStore).filter((value) => value.length > 3 && value !== secretStore.type)
      expect(told.filter((value) => answer.includes(value))).toEqual([])
    }
  })

  test('the denial names the secret and what to add, which then does it', async () => {
    const secretStore = aws('other/db')
    const { answer, hint } = await ask({ secrets: [{ store: 'aws', prefix: 'ssh/' }] }, { secretStore })
    expect(answer).toBe(`denied_by_guard: secrets: aws other/db in eu-west-1 is not in the 1 rule of ${FILE}`)
    const entry = /add (\{.*\}) to secrets/.exec(hint)?.[1] ?? ''
    expect(await answerTo({ secrets: [JSON.parse(entry)] }, { secretStore })).toBe('admitted')
  })
})

describe('what a grant may be', () => {
  const soon = (ms: number) => ({ notAfter: new Date(Date.now() + ms).toISOString() })
  test.each<[object, Asked, string]>([
    [{ logins: ['dana', 'ops-*'] }, {}, 'admitted'],
    [{ logins: ['ops-*'] }, {}, `logins: dana is not in the 1 rule of ${FILE}`],
    [{ logins: ['ops-*'] }, { grant: { login: 'ops-1' } }, 'admitted'],
    [{ logins: ['*'] }, {}, 'admitted'],
    [{ logins: ['dan'] }, {}, `logins: dana is not in the 1 rule of ${FILE}`],
    [{ logins: ['Dana'] }, {}, `logins: dana is not in the 1 rule of ${FILE}`],
    [{ logins: [] }, {}, `logins: dana is in none of the 0 rules of ${FILE}`],
    [{ groups: ['db*'] }, {}, 'admitted'],
    [{ groups: ['db*'] }, { grant: { groups: [] } }, 'admitted'],
    [{ groups: [] }, { grant: { groups: [] } }, 'admitted'],
    [
      { groups: ['db*'] },
      { grant: { groups: ['dbadmins', 'developers'] } },
      `groups: developers is not in the 1 rule of ${FILE}`,
    ],
    [{ maxGrantMs: 2 * HOUR }, {}, 'admitted'],
    [
      { maxGrantMs: 2 * HOUR },
      { grant: soon(3 * HOUR) },
      `maxGrantMs: the grant ends more than the 7200000 ms of ${FILE} from now`,
    ],
    [
      { maxGrantMs: 2 * HOUR },
      { grant: { notAfter: '9999-12-31T23:59:59Z' } },
      `maxGrantMs: the grant ends more than the 7200000 ms of ${FILE} from now`,
    ],
    [{}, { grant: { notAfter: '9999-12-31T23:59:59Z' } }, 'maxGrantMs: the grant ends more than 30 days from now'],
    [{ policy: {} }, {}, 'admitted'],
    [{ policy: { trust: ['root_file'], uidRange: [20000, 59999] } }, {}, 'admitted'],
    [
      { policy: { trust: ['root_file'] } },
      { policy: { trust: 'home' } },
      `policy.trust: home is not in the 1 rule of ${FILE}`,
    ],
    [
      { policy: { shell: ['/bin/bash'] } },
      { policy: { shell: '/tmp/sh' } },
      `policy.shell: /tmp/sh is not in the 1 rule of ${FILE}`,
    ],
    [
      { policy: { onRevoke: ['lock'] } },
      { policy: { onRevoke: 'keep' } },
      `policy.onRevoke: keep is not in the 1 rule of ${FILE}`,
    ],
    [
      { policy: { homes: ['archive'] } },
      { policy: { homes: 'delete' } },
      `policy.homes: delete is not in the 1 rule of ${FILE}`,
    ],
    [{ policy: { rootProcesses: ['all'] } }, {}, `policy.rootProcesses: session is not in the 1 rule of ${FILE}`],
    [{ policy: { hostKeys: ['pinned'] } }, {}, `policy.hostKeys: trust_on_first_use is not in the 1 rule of ${FILE}`],
    [
      { policy: { uidRange: [20000, 30000] } },
      {},
      `policy.uidRange: 20000 to 59999 is not within the 20000 to 30000 of ${FILE}`,
    ],
    [
      { policy: { uidRange: [30000, 60000] } },
      {},
      `policy.uidRange: 20000 to 59999 is not within the 30000 to 60000 of ${FILE}`,
    ],
  ])('%j of %j: %s', async (content, asked, answer) => {
    const { answer: given, hint, lookups } = await ask(content, asked)
    expect(given.replace('denied_by_guard: ', '')).toBe(answer)
    if (answer === 'admitted') return
    expect(lookups).toEqual([])
    expect(hint).not.toBe('')
    // Nothing of this keeps access alive; and a look and a clean-up are held to what they act by.
    expect(await answerTo(content, { ...asked, grant: { ...asked.grant, state: 'absent' } })).toBe('admitted')
    const bound = { inspect: /^policy\.hostKeys/, cleanup: /^policy\.(?:hostKeys|homes)/ }
    for (const kind of ['inspect', 'cleanup'] as const) {
      expect(await answerTo(content, { ...asked, kind })).toMatch(bound[kind].test(answer) ? DENIED : /^admitted$/)
    }
  })

  test.each<[boolean | string[] | undefined, string, boolean]>([
    [undefined, 'dana', false],
    [false, 'dana', false],
    [true, 'dana', true],
    [['dana'], 'dana', true],
    [['da*'], 'dana', true],
    [['erin'], 'dana', false],
    [[], 'dana', false],
  ])('adopt: %j, %s: %s', async (adopt, login, admitted) => {
    const asked = { policy: { existingUser: 'adopt' }, grant: { login } }
    expect(await answerTo({ adopt }, asked)).toMatch(admitted ? /^admitted$/ : /^denied_by_guard: adopt: /)
    expect(await answerTo({ adopt }, { grant: { login } })).toBe('admitted')
  })

  test('root and the connection user are adopted by nobody, whoever asks past the reading of jobs', () => {
    const limits = { path: FILE, rules: rulesOf({ adopt: true }), problems: [] }
    for (const login of ['root', 'apono']) {
      const parsed = EnsureJob.parse(jobOf({ policy: { existingUser: 'adopt' }, grant: { login } }))
      expect(adoptionBeyondFile(parsed, limits)?.message).toBe(`adopt: ${login} is never adopted`)
    }
  })

  test('what the hint says about adoption does it', async () => {
    const asked = { policy: { existingUser: 'adopt' } }
    const { hint } = await ask({}, asked)
    expect(hint).toContain('set adopt to ["dana"] in')
    expect(await answerTo({ adopt: ['dana'] }, asked)).toBe('admitted')
    expect((await ask(null, asked)).hint).toContain('APONO_GUARD_FILE')
  })
})

describe('while the file is broken', () => {
  const problems = ['hosts.1: must be …']
  test.each<[Asked, string]>([
    [{}, `the guard file ${FILE} cannot be used: hosts.1: must be …`],
    [{ kind: 'inspect' }, `the guard file ${FILE} cannot be used: hosts.1: must be …`],
    [{ kind: 'cleanup' }, `the guard file ${FILE} cannot be used: hosts.1: must be …`],
    [{ grant: { state: 'absent' } }, 'admitted'],
    [{ grant: { state: 'absent' }, host: 'db-2' }, `hosts: db-2:22 is not in the 1 rule of ${FILE}`],
    [
      { grant: { state: 'absent' }, secretPath: '/secrets/x' },
      `secrets: file /secrets/x is not in the 1 rule of ${FILE}`,
    ],
  ])('%j: %s', async (asked, answer) => {
    const last = { hosts: ['db-1'], secrets: [{ store: 'file', name: '/secrets/ssh.json' }], logins: [] }
    const given = await answerTo(last, asked, undefined, problems)
    expect(given.replace(/^(?:denied_by_guard|guard_file_unusable): /, '')).toBe(answer)
    expect(given.startsWith('guard_file_unusable')).toBe(answer.includes('cannot be used'))
  })
})
