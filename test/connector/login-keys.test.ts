import { describe, expect, test } from 'vitest'
import { keysTaken } from '../../src/connector/login-keys.ts'
import { JobError } from '../../src/host/errors.ts'
import { Problem } from '../../src/protocol/results.ts'
import type { LoginKey } from '../../src/secrets/private-key.ts'
import type { Hop, Route } from '../../src/ssh/route.ts'

// The words that come of which key was taken; test/ssh/two-keys.test.ts has the servers.

const keyOf = (fingerprint: string, line = `ssh-ed25519 ${fingerprint}`): LoginKey =>
  ({ fingerprint, publicLine: line }) as LoginKey

const hop = (host: string, ...keys: LoginKey[]): Hop => ({
  server: { host, port: 2222, user: 'ops', addresses: [] },
  key: { keys, version: 'v1' },
  rules: { known: [], revoked: [], policy: 'pinned', decidedBy: null, authorityOnly: false },
})
const both = [keyOf('current'), keyOf('next')]
const taken = ({ jumps, target }: Route, ...fingerprints: string[]) =>
  keysTaken({ jumps, target }, new Map([...jumps, target].map((one, index) => [one, fingerprints[index] ?? ''])))

describe('which key was taken', () => {
  test('is told of the server alone, and who needs the current one of every place', () => {
    const route = { jumps: [hop('jump', ...both), hop('own', keyOf('other'))], target: hop('db', ...both) }
    const { loginKey, problems } = taken(route, 'current', 'other', 'current')
    expect(loginKey).toBe('current')
    expect(problems.map(({ message }) => message.split(' (').at(-1))).toEqual(['jump host jump:2222)', 'db:2222)'])
    expect(problems[1]?.hint).toContain(
      "As root on db:2222:\nprintf '\\n%s\\n' 'ssh-ed25519 next' >>~ops/.ssh/authorized_keys\n",
    )
    expect(taken(route, 'next', 'other', 'next')).toEqual({ loginKey: 'next', problems: [] })
  })

  test('is only one where the next cannot be opened, and that is told with what to do', () => {
    const nextUnusable = new JobError('secret_malformed', 'the private key is cut off', { detail: 'Store it again.' })
    const target = { ...hop('db', keyOf('current')), key: { keys: [keyOf('current')], version: 'v1', nextUnusable } }
    const { loginKey, problems } = taken({ jumps: [], target }, 'current')
    expect(loginKey).toBe('only')
    expect(problems).toMatchObject([{ code: 'next_key_unusable', severity: 'warning', hint: 'Store it again.' }])
    expect(problems[0]?.message).toContain('the private key is cut off')
  })

  test('is not told where nobody said it', () => {
    expect(keysTaken({ jumps: [], target: hop('db', ...both) }, new Map())).toEqual({ problems: [] })
  })

  test('fits the protocol, however long the key is', () => {
    for (const length of [20, 1500, 1501, 6000]) {
      const long = keyOf('next', `ssh-rsa ${'A'.repeat(length - 8)}`)
      const { problems } = taken({ jumps: [], target: hop('h'.repeat(253), keyOf('current'), long) }, 'current')
      expect(problems.map((one) => Problem.safeParse(one).success)).toEqual([true])
      expect(problems[0]?.hint.includes(long.publicLine)).toBe(length <= 1500)
    }
  })
})
