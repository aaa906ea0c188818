import { describe, expect, it } from 'vitest'
import { ClaimEnvelope, Report } from '../../src/protocol/calls.ts'
import { Grant } from '../../src/protocol/grant.ts'
import { Host, Integration, Policy } from '../../src/protocol/integration.ts'
import { Job } from '../../src/protocol/job.ts'
import { Instant, PublicKey } from '../../src/protocol/primitives.ts'
import { ensureJob, KEY } from './examples.ts'

const accepts = (schema: { safeParse(value: unknown): { success: boolean } }, value: unknown): boolean =>
  schema.safeParse(value).success

describe('a job', () => {
  it('is read, and members that nobody knows are dropped', () => {
    const parsed = Job.parse({ ...ensureJob(), novelty: 1 })
    expect(parsed).toEqual({
      ...ensureJob(),
      integration: {
        ...ensureJob().integration,
        policy: { ...ensureJob().integration.policy, homes: 'archive', uidRange: [20000, 59999] },
      },
    })
  })

  it('that cannot be read does not hide the others', () => {
    const envelope = {
      serverTime: '2026-11-22T15:00:00.000Z',
      jobs: [ensureJob(), { jobId: 'j', epoch: 1, kind: 'x' }],
    }
    expect(accepts(ClaimEnvelope, envelope)).toBe(true)
    expect(accepts(Job, envelope.jobs[1])).toBe(false)
  })

  it.each(['login', 'id'] as const)('takes no %s outside the allow-list', (member) => {
    for (const bad of [
      'a;b',
      'root\n',
      '\nroot',
      'x'.repeat(65),
      '',
      '-x',
      'a,b',
      'a b',
      'ünï',
      'a/b',
      '../a',
      '$(id)',
    ]) {
      expect(accepts(Grant, { ...ensureJob().grant, [member]: bad }), JSON.stringify(bad)).toBe(false)
    }
  })

  it('takes 32 characters of login and not 33', () => {
    expect(accepts(Grant, { ...ensureJob().grant, login: 'x'.repeat(32) })).toBe(true)
    expect(accepts(Grant, { ...ensureJob().grant, login: 'x'.repeat(33) })).toBe(false)
  })

  it('ends after it begins', () => {
    const grant = ensureJob().grant
    expect(accepts(Grant, { ...grant, notAfter: grant.notBefore })).toBe(false)
  })

  it('keeps counters where a 32-bit shell can compare them', () => {
    for (const epoch of [0, -1, 1.5, 2 ** 31, '1']) expect(accepts(Job, { ...ensureJob(), epoch })).toBe(false)
    expect(accepts(Job, { ...ensureJob(), epoch: 2 ** 31 - 1 })).toBe(true)
  })
})

describe('policy', () => {
  it('defaults to the safer value of each', () => {
    expect(Policy.parse({})).toEqual({
      existingUser: 'refuse',
      homes: 'archive',
      onRevoke: 'lock',
      hostKeys: 'trust_on_first_use',
      trust: 'root_file',
      rootProcesses: 'session',
      shell: '/bin/bash',
      uidRange: [20000, 59999],
    })
    const { policy: _, ...without } = ensureJob().integration
    expect(Integration.parse(without).policy).toEqual(Policy.parse({}))
  })

  it('takes no uid range that could hold a system account', () => {
    for (const uidRange of [[0, 100], [999, 2000], [3000, 2000], [20000], '20000-30000']) {
      expect(accepts(Policy, { uidRange })).toBe(false)
    }
  })
})

describe('names of other things', () => {
  it('a public key is type and base64, nothing else', () => {
    expect(accepts(PublicKey, KEY)).toBe(true)
    const cert = KEY.replace('ssh-ed25519', 'ssh-ed25519-cert-v01@openssh.com')
    for (const bad of [
      `${KEY} comment`,
      `no-pty ${KEY}`,
      `${KEY}\n`,
      ` ${KEY}`,
      cert,
      'ssh-dss AAAAB3NzaC1kc3MAAACBAAAA',
    ]) {
      expect(accepts(PublicKey, bad), bad).toBe(false)
    }
  })
  it('a host is a name or an address', () => {
    for (const good of ['db-1.example.com', '10.0.8.15', '2001:db8::1', '::1', 'my_host'])
      expect(accepts(Host, good)).toBe(true)
    for (const bad of ['-oProxyCommand=x', 'a b', 'a;b', '', 'user@host', '[::1]', 'a\n'])
      expect(accepts(Host, bad)).toBe(false)
  })
  it('a time is in UTC with a Z', () => {
    expect(accepts(Instant, '2026-11-22T15:00:00Z')).toBe(true)
    for (const bad of ['2026-11-22T15:00:00+00:00', '2026-11-22T15:00:00', '2026-11-22', 'now']) {
      expect(accepts(Instant, bad)).toBe(false)
    }
  })
})

describe('a report', () => {
  const ref = { jobId: 'job_1', epoch: 41, at: '2026-11-22T15:00:00.000Z' }
  it('is one of four outcomes', () => {
    expect(accepts(Report, { ...ref, outcome: 'progress', seq: 1, step: 'connecting' })).toBe(true)
    expect(accepts(Report, { ...ref, outcome: 'shrug' })).toBe(false)
    expect(accepts(Report, { ...ref, outcome: 'succeeded' })).toBe(false)
  })
  it('tells the three results apart', () => {
    const result = {
      hostId: 'h_1',
      login: 'dana',
      groupsRemoved: ['dbadmins'],
      sessionsEnded: 2,
      processesLeft: 0,
      account: 'locked',
      changed: true,
      assurance: 'observed',
      residue: [],
    }
    expect(Report.parse({ ...ref, outcome: 'succeeded', result })).toMatchObject({ result })
  })
})
