import { describe, expect, test } from 'vitest'
import { algorithmsFor } from '../../src/ssh/algorithms.ts'
import { type HostKeyRules, hostKeyRules, judgeHostKey, keysToReport, knownTypes } from '../../src/ssh/host-keys.ts'
import { keyFinder, parseKnownHosts } from '../../src/ssh/known-hosts.ts'

const RULES: HostKeyRules = {
  known: [],
  revoked: [],
  policy: 'trust_on_first_use',
  decidedBy: null,
  authorityOnly: false,
}
const PINNED: HostKeyRules = { ...RULES, policy: 'pinned' }

describe('a host key', () => {
  const rows: [string, HostKeyRules, string, string][] = [
    ['known', { ...PINNED, known: ['a 1', 'b 2'] }, 'b 2', 'accepted'],
    ['known, whatever the policy', { ...RULES, known: ['a 1'] }, 'a 1', 'accepted'],
    ['changed, pinned', { ...PINNED, known: ['a 1'] }, 'a 2', 'host_key_changed'],
    ['changed, first use', { ...RULES, known: ['a 1'] }, 'a 2', 'host_key_changed'],
    ['unknown, pinned', PINNED, 'a 1', 'host_key_unknown'],
    ['unknown, first use', RULES, 'a 1', 'accepted'],
    ['unknown, first use, under an authority', { ...RULES, authorityOnly: true }, 'a 1', 'host_key_unknown'],
    ['known, under an authority', { ...RULES, known: ['a 1'], authorityOnly: true }, 'a 1', 'accepted'],
    ['revoked, first use', { ...RULES, revoked: ['a 1'] }, 'a 1', 'host_key_revoked'],
    ['revoked though known', { ...PINNED, known: ['a 1'], revoked: ['a 1'] }, 'a 1', 'host_key_revoked'],
    [
      'new where all that are known are revoked',
      { ...RULES, known: ['a 1'], revoked: ['a 1'] },
      'a 2',
      'host_key_changed',
    ],
    ['another than the revoked one, first use', { ...RULES, revoked: ['a 1'] }, 'a 2', 'accepted'],
  ]
  test.each(rows)('%s', (_name, rules, presented, verdict) => {
    expect(judgeHostKey(presented, rules)).toBe(verdict)
  })
})

const A = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJxjPlNZ+WpRpxTjtk6Crq5HyEmnw0Ln3MjzjpuqaaM1'
const B = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1lIfMSsxYVEc/8WtHXGkaPhbaAqDNSEtCHTbhZk3n9'
const local = (text: string) => ({ path: '/kh', find: keyFinder(parseKnownHosts(text)) })
const server = (...hostKeys: string[]) => ({ host: 'db-1', port: 22, hostKeys })

describe('what is known of a server', () => {
  test('without a file: what the integration pins', () => {
    expect(hostKeyRules(server(A), 'pinned', null)).toEqual({ ...PINNED, known: [A] })
  })

  test('a key in known_hosts wins over the integration', () => {
    const rules = hostKeyRules(server(A), 'trust_on_first_use', local(`db-1 ${B}`))
    expect(rules).toEqual({ ...RULES, known: [B], decidedBy: '/kh' })
    expect([judgeHostKey(A, rules), judgeHostKey(B, rules)]).toEqual(['host_key_changed', 'accepted'])
  })

  test('a file that does not name the server leaves it to the integration', () => {
    expect(hostKeyRules(server(A), 'pinned', local(`db-2 ${B}`))).toEqual({ ...PINNED, known: [A] })
  })

  test('a key that known_hosts revokes is refused, also where the integration pins it', () => {
    const rules = hostKeyRules(server(A), 'pinned', local(`@revoked * ${A}`))
    expect(judgeHostKey(A, rules)).toBe('host_key_revoked')
  })

  test('nothing but an authority: first use is off, a pinned key counts', () => {
    const authority = local(`@cert-authority * ${B}`)
    const none = hostKeyRules(server(), 'trust_on_first_use', authority)
    expect(none).toEqual({ ...RULES, decidedBy: '/kh', authorityOnly: true })
    expect([judgeHostKey(A, none), judgeHostKey(B, none)]).toEqual(['host_key_unknown', 'host_key_unknown'])
    expect(hostKeyRules(server(A), 'pinned', authority)).toEqual({ ...PINNED, known: [A] })
    const both = local(`@cert-authority * ${B}\ndb-1 ${A}`)
    expect(judgeHostKey(A, hostKeyRules(server(), 'pinned', both))).toBe('accepted')
  })
})

test('what is reported: what was proved, and what the integration pins unless it is revoked', () => {
  expect(keysToReport('a 1', { ...RULES, known: ['a 1', 'b 2', 'c 3'], revoked: ['c 3'] })).toEqual(['a 1', 'b 2'])
  expect(keysToReport('a 1', { ...RULES, known: ['a 1', 'b 2'], decidedBy: '/kh' })).toEqual(['a 1'])
})

describe('algorithms', () => {
  test('never SHA-1, CBC, DSA or compression', () => {
    const names = Object.values(algorithmsFor([])).flat().join(' ')
    expect(names).not.toMatch(/sha1|ssh-rsa|ssh-dss|cbc|zlib|arcfour|md5/)
  })

  test('only the types of the known keys are asked for', () => {
    expect(algorithmsFor(['ssh-rsa']).serverHostKey).toEqual(['rsa-sha2-512', 'rsa-sha2-256'])
    expect(algorithmsFor(['ssh-ed25519']).serverHostKey).toEqual(['ssh-ed25519'])
  })

  test("where no type is known that can be checked, ours are asked for, never ssh2's own", () => {
    expect(algorithmsFor(['ssh-dss']).serverHostKey).toContain('ssh-ed25519')
    expect(algorithmsFor(['ssh-dss'])).toEqual(algorithmsFor([]))
  })

  test('the type of a revoked key is asked for only where nothing else is known', () => {
    expect(knownTypes({ ...RULES, known: ['a 1', 'b 2'], revoked: ['a 1'] })).toEqual(['b'])
    expect(knownTypes({ ...RULES, known: ['a 1'], revoked: ['a 1'] })).toEqual(['a'])
    expect(knownTypes({ ...RULES, revoked: ['a 1'] })).toEqual([])
  })
})
