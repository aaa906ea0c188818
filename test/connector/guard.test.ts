import { describe, expect, test } from 'vitest'
import { kindOf, type Resolve, resolveHost } from '../../src/connector/addresses.ts'
import { defaultGuard } from '../../src/connector/guard.ts'
import { MAX_GRANT_MS } from '../../src/connector/guard-file.ts'
import { readJob } from '../../src/connector/read-job.ts'
import type { JobError } from '../../src/host/errors.ts'
import { systemClock } from '../../src/observability/clock.ts'
import { JobHead } from '../../src/protocol/job.ts'
import type { CheckedAddress } from '../../src/ssh/socket.ts'
import { type JobOptions, job } from './jobs.ts'

const to =
  (...addresses: string[]): Resolve =>
  async () =>
    addresses.map((address): CheckedAddress => ({ address, family: address.includes(':') ? 6 : 4 }))

type Setting = { resolve?: Resolve; allowLoopback?: boolean; resolveTimeoutMs?: number }

const admit = (options: JobOptions & { integration?: object }, setting: Setting = {}) => {
  const raw = { ...job({ secretPath: '/secrets/ssh.json', host: 'db-1', ...options }) }
  if (options.integration) raw['integration'] = { ...(raw['integration'] as object), ...options.integration }
  const guard = defaultGuard({
    clock: systemClock,
    resolve: setting.resolve ?? to('10.0.0.5'),
    resolveTimeoutMs: setting.resolveTimeoutMs ?? 1000,
    secretDirectory: '/secrets',
    allowLoopback: setting.allowLoopback ?? false,
  })
  return guard.admit(readJob(raw, JobHead.parse(raw)), new AbortController().signal)
}
const refusal = (options: JobOptions & { integration?: object }, setting?: Setting): Promise<string> =>
  admit(options, setting).then(
    () => 'admitted',
    (error: JobError) => error.code,
  )

describe('the default guard', () => {
  test('admits an ordinary job and gives the addresses that were checked', async () => {
    expect(await admit({}, { resolve: to('10.0.0.5', '2001:db8::5') })).toEqual([
      { address: '10.0.0.5', family: 4 },
      { address: '2001:db8::5', family: 6 },
    ])
  })

  test.each(['127.0.0.1', '127.9.9.9', '0.0.0.0', '::1', '::', '::ffff:127.0.0.1', '64:ff9b::7f00:1'])(
    '%s is our own machine: only for standalone',
    async (address) => {
      expect(await refusal({ host: 'name' }, { resolve: to(address) })).toBe('denied_by_guard')
      expect(await refusal({ host: 'name' }, { resolve: to(address), allowLoopback: true })).toBe('admitted')
      expect(await refusal({ host: 'name' }, { resolve: to('10.0.0.5', address) })).toBe('denied_by_guard')
    },
  )

  test.each([
    '169.254.169.254',
    '169.254.170.2',
    '168.63.129.16',
    '100.100.100.200',
    '192.0.0.192',
    'fe80::1',
    'fe80::1%eth0',
    'fd00:ec2::254',
    '::ffff:169.254.169.254',
    '64:ff9b::a9fe:a9fe',
  ])('%s is never a server', async (address) => {
    expect(await refusal({ host: 'name' }, { resolve: to(address), allowLoopback: true })).toBe('denied_by_guard')
    expect(await refusal({ kind: 'inspect' }, { resolve: to(address), allowLoopback: true })).toBe('denied_by_guard')
    expect(await refusal({ grant: { state: 'absent' } }, { resolve: to(address) })).toBe('denied_by_guard')
  })

  test.each(['2130706433', '0x7f000001', '127.1', '0', 'localhost'])(
    'the system resolver knows %s for what it is',
    async (host) => {
      expect(await refusal({ host }, { resolve: resolveHost })).toBe('denied_by_guard')
    },
  )

  test('an ordinary address is ordinary', () => {
    for (const address of ['10.0.0.1', '8.8.8.8', '128.0.0.1', '169.253.1.1', '1.0.0.0']) {
      expect(kindOf({ address, family: 4 })).toBe('ordinary')
    }
    expect(kindOf({ address: '2001:db8::1', family: 6 })).toBe('ordinary')
    expect(kindOf({ address: 'fd00::1', family: 6 })).toBe('ordinary')
  })

  const secret = (secretStore: object) => ({ kind: 'inspect', integration: { secretStore } })
  test.each([
    ['a file elsewhere', secret({ type: 'file', path: '/etc/shadow' })],
    ['a file next door', secret({ type: 'file', path: '/secrets-2/x' })],
    ['the directory itself', secret({ type: 'file', path: '/secrets' })],
    ['a file by ..', secret({ type: 'file', path: '/secrets/../etc/shadow' })],
    ['a Vault path by ..', secret({ type: 'hashicorp_vault', secretEngine: 'kv', path: 'a/../../sys/seal' })],
    ['a vault of somebody else', secret({ type: 'azure', vaultUrl: 'https://evil.example/', name: 'x' })],
    [
      'a vault that looks like one',
      secret({ type: 'azure', vaultUrl: 'https://x.vault.azure.net.evil.example', name: 'x' }),
    ],
    ['adoption', { policy: { existingUser: 'adopt' } }],
    ['a grant of 31 days', { grant: { notAfter: new Date(Date.now() + MAX_GRANT_MS + 86_400_000).toISOString() } }],
  ])('%s is denied, and the name is not even looked up', async (_name, options) => {
    let asked = false
    const resolve: Resolve = async () => {
      asked = true
      return []
    }
    expect(await refusal(options, { resolve })).toBe('denied_by_guard')
    expect(asked).toBe(false)
  })

  const behind = (host: string, jump: object = {}) => ({ host, jumps: [{ host: 'bastion', user: 'apono', ...jump }] })

  test('of a way it resolves and admits the first place, and leaves the others to the jump hosts', async () => {
    const asked: string[] = []
    const resolve: Resolve = async (host) => {
      asked.push(host)
      return to('10.0.0.9')(host)
    }
    expect(await admit(behind('db-1'), { resolve })).toEqual([{ address: '10.0.0.9', family: 4 }])
    expect(asked).toEqual(['bastion'])
    expect(await refusal(behind('10.1.1.1'))).toBe('admitted')
    expect(await refusal(behind('db-1'), { resolve: to('169.254.169.254') })).toBe('denied_by_guard')
  })

  test.each([
    '127.0.0.1',
    '::1',
    '169.254.169.254',
    '::ffff:169.254.169.254',
    'localhost',
    'LOCALHOST.',
    'db.localhost',
    '2130706433',
    '127.1',
    '0x7f000001',
    '0',
    '169.254.169.0xfe',
    '127.0.0.0X1',
    '0177.0.0.1.',
    'localhost.localdomain',
    'localhost6',
    'ip6-loopback',
  ])('behind a jump host %s is denied: it is the jump host itself, or what only it can reach', async (host) => {
    expect(await refusal(behind(host))).toBe('denied_by_guard')
  })

  test.each(['db0x1', '10-0-0-1.example.com', '0x.example.com', 'localhost-1', '1.db'])(
    'behind a jump host %s is a name like others',
    async (host) => {
      expect(await refusal(behind(host))).toBe('admitted')
    },
  )

  test('a jump host’s own secret is held to the same rules', async () => {
    const stored = (path: string) => behind('db-1', { secretStore: { type: 'file', path } })
    expect(await refusal(stored('/secrets/hop.json'))).toBe('admitted')
    expect(await refusal(stored('/etc/shadow'))).toBe('denied_by_guard')
    expect(await refusal({ ...stored('/etc/shadow'), kind: 'inspect' })).toBe('denied_by_guard')
  })

  test('30 days by a clock that is a little ahead of ours are 30 days', async () => {
    const notAfter = new Date(Date.now() + MAX_GRANT_MS + 60_000).toISOString()
    expect(await refusal({ grant: { notAfter } })).toBe('admitted')
  })

  test('taking back is never denied for what was granted', async () => {
    const notAfter = new Date(Date.now() + 2 * MAX_GRANT_MS).toISOString()
    const options = { policy: { existingUser: 'adopt' }, grant: { state: 'absent', notAfter } }
    expect(await refusal(options)).toBe('admitted')
    expect(await refusal({ ...options, secretPath: '/etc/shadow' })).toBe('denied_by_guard')
  })

  test('names that do not resolve, or not in time', async () => {
    const never: Resolve = () => new Promise(() => undefined)
    expect(await refusal({ host: 'no-such-host.invalid' }, { resolve: resolveHost })).toBe('ssh_unreachable')
    expect(await refusal({}, { resolve: to() })).toBe('ssh_unreachable')
    expect(await refusal({}, { resolve: never, resolveTimeoutMs: 5 })).toBe('ssh_timeout')
  })
})
