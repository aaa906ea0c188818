import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type MintRequest, mintCertificate } from '../../src/certificates/mint.ts'
import { checkMinted, readCertificate } from '../../src/certificates/reread.ts'
import type { JobError } from '../../src/host/errors.ts'
import { sshString } from '../../src/protocol/ssh-wire.ts'
import { scratchDirectory } from '../hosts/scratch.ts'

const directory = scratchDirectory()
const made = (type: string, bits: string): string => {
  const file = path.join(directory, `${type}${bits}`)
  execFileSync('ssh-keygen', ['-q', '-t', type, '-b', bits, '-N', '', '-C', '', '-f', file])
  return execFileSync('ssh-keygen', ['-y', '-f', file], { encoding: 'utf8' }).trim()
}
const blobLine = (type: string, ...fields: (string | Buffer)[]): string =>
  `${type} ${Buffer.concat([sshString(type), ...fields.map(sshString)]).toString('base64')}`

const ED25519 = made('ed25519', '256')
const P256 = made('ecdsa', '256')
const KEYS: Record<string, string> = {
  'ssh-ed25519': ED25519,
  'ecdsa-sha2-nistp256': P256,
  'ecdsa-sha2-nistp384': made('ecdsa', '384'),
  'ecdsa-sha2-nistp521': made('ecdsa', '521'),
  'ssh-rsa': made('rsa', '2048'),
  'sk-ssh-ed25519': blobLine(
    'sk-ssh-ed25519@openssh.com',
    Buffer.from(ED25519.split(' ')[1] ?? '', 'base64').subarray(-32),
    'ssh:',
  ),
  'sk-ecdsa-sha2-nistp256': blobLine(
    'sk-ecdsa-sha2-nistp256@openssh.com',
    'nistp256',
    Buffer.from(P256.split(' ')[1] ?? '', 'base64').subarray(-65),
    'ssh:',
  ),
}

const NOW = Date.parse('2026-11-22T15:00:00.750Z')
const request = (overrides: Partial<MintRequest> = {}): MintRequest => ({
  grantId: 'grt_8f2c',
  publicKey: ED25519,
  notBefore: NOW - 10_000,
  notAfter: NOW + 3_600_000,
  now: NOW,
  ...overrides,
})

const shown = (certificate: string): string => {
  const file = path.join(directory, 'shown-cert.pub')
  writeFileSync(file, `${certificate}\n`)
  return execFileSync('ssh-keygen', ['-L', '-f', file], { encoding: 'utf8', env: { ...process.env, TZ: 'UTC' } })
}

/** What ssh-keygen -L says, without its indentation, the random serial and the fingerprints. */
const gist = (certificate: string): string[] =>
  shown(certificate)
    .split('\n')
    .slice(1)
    .map((text) => text.trim())
    .filter((text) => text !== '')
    .map((text) => text.replace(/^Serial: \d+$/, 'Serial: N').replace(/SHA256:\S+/g, 'SHA256:F'))

describe('a minted certificate', () => {
  test.each(Object.entries(KEYS))('%s: ssh-keygen -L shows exactly what was granted', (type, publicKey) => {
    const { certificate } = mintCertificate(request({ publicKey }))
    expect(certificate.split(' ')[0]).toBe(`${type}-cert-v01@openssh.com`)
    expect(certificate.split(' ')[2]).toBe('grt_8f2c')
    expect(gist(certificate)).toEqual([
      `Type: ${type}-cert-v01@openssh.com user certificate`,
      expect.stringMatching(/^Public key: [A-Z0-9-]+-CERT SHA256:F$/),
      'Signing CA: ED25519 SHA256:F (using ssh-ed25519)',
      'Key ID: "grt_8f2c"',
      'Serial: N',
      'Valid: from 2026-11-22T14:59:00 to 2026-11-22T16:00:00',
      'Principals:',
      'grt_8f2c',
      'Critical Options: (none)',
      'Extensions:',
      'permit-pty',
    ])
  })

  test('says in its result what is in it', () => {
    const minted = mintCertificate(request())
    expect(minted.validAfter).toBe('2026-11-22T14:59:00.000Z')
    expect(minted.validBefore).toBe('2026-11-22T16:00:00.000Z')
    expect(minted.authority).toMatch(/^ssh-ed25519 [A-Za-z0-9+/]{68}$/)
  })

  test('starts 60 s before the grant where the grant is still to come', () => {
    const { validAfter } = mintCertificate(request({ notBefore: NOW + 120_000 }))
    expect(validAfter).toBe('2026-11-22T15:01:00.000Z')
  })

  test('has an authority, a serial and a nonce of its own each time', () => {
    const [one, two] = [mintCertificate(request()), mintCertificate(request())]
    expect(one.authority).not.toBe(two.authority)
    expect(readCertificate(one.certificate).serial).not.toBe(readCertificate(two.certificate).serial)
  })

  test('is never made for a time that has passed', () => {
    expect(() => mintCertificate(request({ notAfter: NOW }))).toThrow(expect.objectContaining({ code: 'expired' }))
  })

  test('is never made for a key that is not sound', () => {
    expect(() => mintCertificate(request({ publicKey: `${ED25519.slice(0, -8)}` }))).toThrow(
      expect.objectContaining({ code: 'invalid_grant' }),
    )
  })

  test('holds for any id, key and time', () => {
    const id = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/)
    const start = fc.integer({ min: Date.parse('2020-01-01'), max: Date.parse('2090-01-01') })
    const key = fc.constantFrom(...Object.values(KEYS))
    fc.assert(
      fc.property(
        id,
        key,
        start,
        fc.nat(10_000_000),
        fc.integer({ min: 1000, max: 86_400_000 * 30 }),
        (grantId, publicKey, now, ago, lasts) => {
          const notAfter = now + lasts
          const facts = readCertificate(
            mintCertificate({ grantId, publicKey, now, notBefore: now - ago, notAfter }).certificate,
          )
          expect(facts).toMatchObject({ subject: publicKey, keyId: grantId, principals: [grantId], kind: 1 })
          expect(facts).toMatchObject({ criticalOptions: [], extensions: ['permit-pty'], signedByAuthority: true })
          expect(facts.after * 1000).toBeLessThanOrEqual(now - 60_000)
          expect(facts.after * 1000).toBeGreaterThan(now - 61_000)
          expect(facts.before * 1000).toBeLessThanOrEqual(notAfter)
          expect(facts.before * 1000).toBeGreaterThan(notAfter - 1000)
        },
      ),
      { numRuns: 200 },
    )
  })
})

describe('the re-reader', () => {
  const minted = mintCertificate(request())
  const { after, before } = readCertificate(minted.certificate)
  const expected = { grantId: 'grt_8f2c', publicKey: ED25519, after, before }
  const complaint = (run: () => void): string => {
    try {
      run()
    } catch (error) {
      return (error as JobError).message
    }
    return 'none'
  }

  test('accepts what was asked for', () => {
    expect(complaint(() => checkMinted(minted, expected))).toBe('none')
  })

  test.each([
    ['key id', { ...expected, grantId: 'grt_other' }],
    ['principals', { ...expected, grantId: 'grt_other' }],
    ['subject', { ...expected, publicKey: P256 }],
    ['valid after', { ...expected, after: after - 1 }],
    ['valid before', { ...expected, before: before + 1 }],
    ['times (sshpk)', { ...expected, before: before + 1 }],
    ['key id (sshpk)', { ...expected, grantId: 'grt_other' }],
    ['subject (sshpk)', { ...expected, publicKey: P256 }],
  ])('refuses another %s', (field, wanted) => {
    expect(complaint(() => checkMinted(minted, wanted))).toContain(field)
  })

  test('refuses another authority', () => {
    const other = mintCertificate(request()).authority
    expect(complaint(() => checkMinted({ ...minted, authority: other }, expected))).toMatch(
      /authority.*signature \(sshpk\)/,
    )
  })

  test('refuses bytes after the end', () => {
    const [type = '', base64 = ''] = minted.certificate.split(' ')
    const longer = Buffer.concat([Buffer.from(base64, 'base64'), Buffer.alloc(4)]).toString('base64')
    expect(() => readCertificate(`${type} ${longer}`)).toThrow('after the end')
  })

  test('refuses a certificate of which any byte was changed', () => {
    const [type = '', base64 = '', comment = ''] = minted.certificate.split(' ')
    const blob = Buffer.from(base64, 'base64')
    fc.assert(
      fc.property(fc.nat(blob.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const changed = Buffer.from(blob)
        changed[at] = (changed[at] ?? 0) ^ flip
        const certificate = `${type} ${changed.toString('base64')} ${comment}`
        expect(complaint(() => checkMinted({ ...minted, certificate }, expected))).not.toBe('none')
      }),
    )
  })
})
