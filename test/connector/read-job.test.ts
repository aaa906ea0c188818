import { describe, expect, test } from 'vitest'
import { readJob } from '../../src/connector/read-job.ts'
import type { JobError } from '../../src/host/errors.ts'
import { JobHead } from '../../src/protocol/job.ts'
import { grant, job } from './jobs.ts'

const judge = (raw: Record<string, unknown>): { code: string; message: string } => {
  try {
    readJob(raw, JobHead.parse(raw))
    return { code: 'accepted', message: '' }
  } catch (error) {
    return error as JobError
  }
}

describe('a job is read before anything is touched', () => {
  test('good ones pass', () => {
    expect(judge(job()).code).toBe('accepted')
    expect(judge(job({ kind: 'inspect' })).code).toBe('accepted')
    expect(judge({ ...job(), somethingNew: 1 }).code).toBe('accepted')
  })

  test.each([
    'Dana',
    'a;b',
    'root\n',
    'x'.repeat(40),
    '',
    '-x',
    'dana ',
    '../x',
    'a,b',
    'dänä',
    '$(id)',
    '1234',
    'a\u0000b',
  ])('login %j is an invalid grant', (login) => {
    const error = judge(job({ grant: { login } }))
    expect(error.code).toBe('invalid_grant')
    expect(error.message).toContain('grant.login')
  })

  test.each([
    ['id', 'a b'],
    ['id', 'a,b'],
    ['generation', 0],
    ['generation', 2 ** 31],
    ['groups', ['a;b']],
    ['notAfter', 'tomorrow'],
    ['notAfter', '2020-01-01T00:00:00Z'],
    ['publicKey', 'ssh-dss AAAAB3NzaC1kc3MAAACBAP'],
    ['publicKey', 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJxjPlNZ'],
    ['publicKey', 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJxjPlNZ+WpRpxTjtk6Crq5HyEmnw0Ln3MjzjpuqaaM1 x'],
  ])('%s %j is an invalid grant', (name, value) => {
    expect(judge(job({ grant: { [name]: value } })).code).toBe('invalid_grant')
  })

  test.each(['root', 'apono', 'ops'])('login %s is never granted', (login) => {
    expect(judge(job({ user: login === 'ops' ? 'ops' : 'apono', grant: { login } })).code).toBe('login_system')
  })

  test('a group outside userGroups is not allowed, but can be taken back', () => {
    const wanted = { userGroups: ['developers'], grant: { groups: ['developers', 'sudo'] } }
    expect(judge(job(wanted))).toMatchObject({ code: 'group_not_allowed', message: expect.stringContaining('sudo') })
    expect(judge(job({ ...wanted, grant: { ...wanted.grant, state: 'absent' } })).code).toBe('accepted')
  })

  test.each([
    ['another kind', { ...job(), kind: 'reboot' }, 'unsupported_job'],
    ['cleanup of no login', job({ kind: 'cleanup' }), 'invalid_job'],
    ['no server', { ...job(), server: undefined }, 'invalid_job'],
    ['a host that is an option', job({ host: '-oProxyCommand=x' }), 'invalid_job'],
    ['a wrong policy', job({ policy: { onRevoke: 'explode' } }), 'invalid_job'],
    ['wrong in grant and server', { ...job({ host: ' ' }), grant: grant({ login: ';' }) }, 'invalid_job'],
  ])('%s', (_name, raw, code) => {
    expect(judge(raw).code).toBe(code)
  })

  test('jump hosts are held to what servers are', () => {
    const raw = job()
    const judged = (jump: object) => judge({ ...raw, server: { ...(raw['server'] as object), jumps: [jump] } }).code
    expect(judged({ host: 'j', user: 'apono', secretStore: { type: 'file', path: '/secrets/j' } })).toBe('accepted')
    expect(judged({ host: '-oProxyCommand=x', user: 'apono' })).toBe('invalid_job')
    expect(judged({ host: 'j', user: 'a b' })).toBe('invalid_job')
    expect(judged({ host: 'j', user: 'apono', hostKeys: ['ssh-rsa'] })).toBe('invalid_job')
  })
})
