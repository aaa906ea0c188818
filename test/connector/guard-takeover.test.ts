import { randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import type { Resolve } from '../../src/connector/addresses.ts'
import { executeJob } from '../../src/connector/executor.ts'
import { createGuard } from '../../src/connector/guard.ts'
import { watchGuardFile } from '../../src/connector/guard-file-watch.ts'
import { hostKeySource } from '../../src/connector/known-hosts-file.ts'
import { createLeases } from '../../src/connector/leases.ts'
import { systemClock } from '../../src/observability/clock.ts'
import { JobHead } from '../../src/protocol/job.ts'
import { type Asked, guardFile, jobOf, to } from './guard-setup.ts'
import { configOf, noHostProgram } from './setup.ts'

// A control plane that was taken over asks for everything that it can think of, of a connector whose customer wrote down
// what it is for. What counts is what was touched before the answer: nothing.

const CUSTOMER = {
  hosts: ['*.prod.example.com', '10.1.0.0/16:22', 'bastion.example.com:2222'],
  secrets: [
    { store: 'file', prefix: '/secrets/ssh/' },
    { store: 'aws', prefix: 'apono/', region: 'eu-west-1' },
    { store: 'azure', prefix: 'apono.vault.azure.net/ssh-' },
  ],
  logins: ['jit-*'],
  groups: ['db*', 'developers'],
  adopt: ['jit-legacy'],
  maxGrantMs: 28_800_000,
  policy: { trust: ['root_file'], shell: ['/bin/bash'], onRevoke: ['lock'], uidRange: [20000, 59999] },
}

interface Touched {
  readonly lookups: string[]
  readonly secrets: string[]
  readonly connections: string[]
}

/** The real executor and guard; what they would touch only notes that it was asked. */
const handOut = async (
  asked: Asked,
  resolve: Resolve = to('10.1.0.5'),
  change: object = {},
  content: object | null = CUSTOMER,
) => {
  const touched: Touched = { lookups: [], secrets: [], connections: [] }
  const raw = {
    ...jobOf({
      host: 'db-1.prod.example.com',
      secretPath: '/secrets/ssh/key.json',
      ...asked,
      grant: { login: 'jit-dana', ...asked.grant },
    }),
    ...change,
  }
  const head = JobHead.parse(raw)
  const lease = createLeases(systemClock).add(head, 60_000, 0)
  if (lease === null) throw new Error('no lease')
  const counted: Resolve = (host) => {
    touched.lookups.push(host)
    return resolve(host)
  }
  const setting = { clock: systemClock, resolveTimeoutMs: 1000, secretDirectory: '/secrets', allowLoopback: false }
  const limits = content === null ? null : watchGuardFile(guardFile(content), systemClock)
  const outcome = await executeJob(raw, head, lease, {
    clock: systemClock,
    random: randomBytes,
    guard: createGuard({ ...setting, resolve: counted }, limits),
    keys: {
      get: async (reference) => {
        touched.secrets.push(JSON.stringify(reference))
        throw new Error('the secret was read')
      },
      renew: async () => null,
      dispose: () => undefined,
    },
    pool: {
      use: async ({ target }) => {
        touched.connections.push(target.server.host)
        throw new Error('a socket was opened')
      },
    },
    hostKeys: hostKeySource(null, systemClock),
    hostProgram: noHostProgram,
    deadlines: configOf({ APONO_URL: 'https://x.example' }).deadlines,
    // Of the control plane's making: it believes that it is next century.
    skew: { ms: () => 3_153_600_000_000, now: () => Date.now() + 3_153_600_000_000, isSane: () => true },
    controlPlaneId: () => 'cp_taken_over',
  })
  return { error: outcome.outcome === 'failed' ? outcome.error : null, touched }
}

const jumps = (jump: object): Asked => ({
  jumps: [{ host: 'bastion.example.com', port: 2222, user: 'apono', ...jump }],
})
const secret = (secretStore: object): Asked => ({ secretStore })
const end = (asked: Asked): Asked => ({ ...asked, grant: { state: 'absent' } })

const HOSTILE: readonly (readonly [string, Asked])[] = [
  // Other secrets.
  ['another file', { secretPath: '/secrets/payroll.json' }],
  ['a file elsewhere', { secretPath: '/etc/shadow' }],
  ['a file by ..', { secretPath: '/secrets/ssh/../payroll.json' }],
  ['a file by //', { secretPath: '/secrets/ssh//../payroll.json' }],
  ['another secret in AWS', secret({ type: 'aws', region: 'eu-west-1', secretId: 'payroll' })],
  ['the same name in another region', secret({ type: 'aws', region: 'us-east-1', secretId: 'apono/ssh' })],
  [
    'the same name in another account',
    secret({
      type: 'aws',
      region: 'eu-west-1',
      secretId: 'arn:aws:secretsmanager:eu-west-1:666666666666:secret:apono/ssh',
    }),
  ],
  ['an AWS of its own', secret({ type: 'aws', region: 'x.evil.example/', secretId: 'apono/ssh' })],
  ['a store that no rule names', secret({ type: 'hashicorp_vault', secretEngine: 'sys', path: 'raw' })],
  ['a secret of its own for the jump host', jumps({ secretStore: { type: 'file', path: '/secrets/payroll.json' } })],
  // Hostile vault URLs.
  ['a vault of its own', secret({ type: 'azure', vaultUrl: 'https://evil.example', name: 'ssh-key' })],
  [
    'a vault behind a user',
    secret({ type: 'azure', vaultUrl: 'https://apono.vault.azure.net@evil.example', name: 'ssh-key' }),
  ],
  ['a vault at a port', secret({ type: 'azure', vaultUrl: 'https://apono.vault.azure.net:8443', name: 'ssh-key' })],
  ['a vault of somebody else', secret({ type: 'azure', vaultUrl: 'https://evil.vault.azure.net', name: 'ssh-key' })],
  [
    'another secret by its name’s path',
    secret({ type: 'azure', vaultUrl: 'https://apono.vault.azure.net', name: 'ssh-/../payroll' }),
  ],
  ['another secret by a query', secret({ type: 'azure', vaultUrl: 'https://apono.vault.azure.net', name: 'ssh-x?x=' })],
  // Internal addresses.
  ['an internal server', { host: '10.2.0.5' }],
  ['another port', { host: '10.1.0.5', port: 6443 }],
  ['an internal server in IPv6 clothes', { host: '::ffff:10.2.0.5' }],
  ['an internal server as a number', { host: '167903237' }],
  ['metadata', { host: '169.254.169.254' }],
  ['metadata as a number', { host: '0xa9fea9fe' }],
  ['the connector itself', { host: '127.0.0.1' }],
  ['a name that is nobody’s', { host: 'db-1.prod.example.com.evil.example', port: 2222 }],
  ['an internal jump host', jumps({ host: '10.2.0.5', port: 22 })],
  ['a jump host of its own', jumps({ host: 'bastion.evil.example' })],
  ['an internal server behind a jump host', { ...jumps({}), host: '10.2.0.5' }],
  ['any name behind a jump host', { ...jumps({}), host: 'vault.internal' }],
  ['the jump host itself', { ...jumps({}), host: 'localhost' }],
  ['metadata behind a jump host', { ...jumps({}), host: '::ffff:a9fe:a9fe' }],
]

const ONLY_BEGINNINGS: readonly (readonly [string, Asked])[] = [
  ['adoption of an account', { policy: { existingUser: 'adopt' } }],
  ['a login of somebody', { grant: { login: 'postgres' } }],
  ['a group that is root', { userGroups: ['docker'], grant: { groups: ['docker'] } }],
  ['access until the year 9999', { grant: { notAfter: '9999-12-31T23:59:59.999Z' } }],
  ['access for a day', { grant: { notAfter: new Date(Date.now() + 86_400_000).toISOString() } }],
  ['a trust line in the home', { policy: { trust: 'home' } }],
  ['a shell of its own', { policy: { shell: '/tmp/shell' } }],
  ['uids of other people', { policy: { uidRange: [1000, 2000] } }],
]

const NOTHING: Touched = { lookups: [], secrets: [], connections: [] }

describe('a control plane that was taken over', () => {
  test('as it was before: the secret is read', async () => {
    const { touched, error } = await handOut({})
    expect(error?.code).toBe('internal_error')
    expect(touched).toEqual({
      lookups: ['db-1.prod.example.com'],
      secrets: [expect.stringContaining('key.json')],
      connections: [],
    })
    const adopted = await handOut({ policy: { existingUser: 'adopt' }, grant: { login: 'jit-legacy' } })
    expect(adopted.touched.secrets).toHaveLength(1)
    const jumped = await handOut(jumps({}), to('203.0.113.9'))
    expect(jumped.touched).toMatchObject({ lookups: ['bastion.example.com'], secrets: [expect.anything()] })
  })

  test.each([...HOSTILE, ...ONLY_BEGINNINGS])('asks for %s: denied, and nothing was touched', async (_name, asked) => {
    const { error, touched } = await handOut(asked)
    expect(error).toMatchObject({ code: 'denied_by_guard', retryable: false })
    expect(error?.hint).not.toBe('')
    expect(touched).toEqual(NOTHING)
  })

  test.each(HOSTILE)('asks for %s in the name of an end, a look or a clean-up: the same', async (_name, asked) => {
    for (const other of [end(asked), { ...asked, kind: 'inspect' }, { ...asked, kind: 'cleanup' }]) {
      const { error, touched } = await handOut(other)
      expect(error).toMatchObject({ code: 'denied_by_guard' })
      expect(touched).toEqual(NOTHING)
    }
  })

  test.each(ONLY_BEGINNINGS)('ends %s: not held up by limits', async (_name, asked) => {
    const { error, touched } = await handOut({ ...asked, grant: { ...asked.grant, state: 'absent' } })
    expect(error?.code).toBe('internal_error')
    expect(touched.secrets).toHaveLength(1)
  })

  test.each([
    ['link-local', 'db-1.prod.example.com', ['169.254.169.254']],
    ['link-local among others', 'db-1.prod.example.com', ['10.1.0.5', '169.254.169.254']],
    ['link-local in IPv6 clothes', 'db-1.prod.example.com', ['::ffff:169.254.169.254']],
    ['link-local by NAT64', 'db-1.prod.example.com', ['64:ff9b::a9fe:a9fe']],
    ['its own machine', 'db-1.prod.example.com', ['127.0.0.1']],
    ['outside the networks', 'rebound.evil.example', ['10.2.0.5']],
    ['partly outside the networks', 'rebound.evil.example', ['10.1.0.5', '10.2.0.5']],
    ['outside, in IPv6 clothes', 'rebound.evil.example', ['::ffff:10.2.0.5']],
    ['outside, in IPv6', 'rebound.evil.example', ['2001:db8::5']],
  ])('names a server whose name resolves to what is %s', async (_name, host, addresses) => {
    for (const kind of [{}, { kind: 'inspect' }, { grant: { state: 'absent' } }]) {
      const { error, touched } = await handOut({ host, ...kind }, to(...addresses))
      expect(error).toMatchObject({ code: 'denied_by_guard' })
      expect(touched).toEqual({ ...NOTHING, lookups: [host] })
      // What DNS says inside is nothing that it should learn.
      expect(JSON.stringify(error)).not.toContain(addresses.at(-1))
    }
  })

  test.each(['adopt', 'refuse'])('asks for root itself (%s): a job that nobody reads further', async (existingUser) => {
    const { error, touched } = await handOut(
      { policy: { existingUser }, grant: { login: 'root' } },
      undefined,
      {},
      { adopt: true },
    )
    expect(error?.code).toBe('login_system')
    expect(touched).toEqual(NOTHING)
  })

  test('sends limits of its own: they are dropped', async () => {
    const own = { guard: { hosts: ['0.0.0.0/0:*'] }, hosts: ['10.2.0.5'], limits: null, allowLoopback: true }
    const { error, touched } = await handOut({ host: '10.2.0.5' }, undefined, own)
    expect(error?.code).toBe('denied_by_guard')
    expect(touched).toEqual(NOTHING)
  })

  test('is told nothing that it wrote where that passed no allow-list', async () => {
    const { error } = await handOut(secret({ type: 'aws', region: 'eu-west-1', secretId: 'a\u001b]0;b\u0007$(c)' }))
    expect(error?.code).toBe('denied_by_guard')
    expect(JSON.stringify(error)).not.toMatch(/\$\(c\)|\\u001b/)
  })
})
