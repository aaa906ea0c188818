import { describe, expect, test } from 'vitest'
import { algorithmsFor } from '../../src/ssh/algorithms.ts'
import { judgeHostKey } from '../../src/ssh/host-keys.ts'

describe('a host key', () => {
  const rows = [
    ['known', ['a 1', 'b 2'], 'pinned', 'b 2', 'accepted'],
    ['known, whatever the policy', ['a 1'], 'trust_on_first_use', 'a 1', 'accepted'],
    ['changed, pinned', ['a 1'], 'pinned', 'a 2', 'host_key_changed'],
    ['changed, first use', ['a 1'], 'trust_on_first_use', 'a 2', 'host_key_changed'],
    ['unknown, pinned', [], 'pinned', 'a 1', 'host_key_unknown'],
    ['unknown, first use', [], 'trust_on_first_use', 'a 1', 'accepted'],
  ] as const
  test.each(rows)('%s', (_name, known, policy, presented, verdict) => {
    expect(judgeHostKey(presented, { known, policy })).toBe(verdict)
  })
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
})
