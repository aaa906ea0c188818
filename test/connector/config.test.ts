import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { type Config, readConfig } from '../../src/connector/config.ts'
import { scratchDirectory } from '../hosts/scratch.ts'

const GOOD = { APONO_URL: 'control.example.com', APONO_TOKEN: 'tok', APONO_CONNECTOR_ID: 'prod-1' }
const read = (environment: Record<string, string>): Config => {
  const result = readConfig({ ...GOOD, ...environment })
  if (!result.ok) throw new Error(result.problems.join('\n'))
  return result.config
}
const problems = (environment: Record<string, string | undefined>): readonly string[] => {
  const result = readConfig({ ...GOOD, ...environment })
  return result.ok ? [] : result.problems
}

describe('configuration', () => {
  test('needs three variables, has a default for all others, and is frozen', () => {
    const config = read({})
    expect(config).toMatchObject({
      url: 'https://control.example.com',
      connectorId: 'prod-1',
      slots: 16,
      healthListen: { host: '0.0.0.0', port: 8080 },
      logLevel: 'info',
      cloudProvider: 'detect',
      secretDirectory: expect.stringMatching(/^\/etc\//),
    })
    expect(Object.isFrozen(config) && Object.isFrozen(config.deadlines)).toBe(true)
  })

  test.each([
    ['control.example.com', 'https://control.example.com'],
    ['https://control.example.com/', 'https://control.example.com'],
    ['https://example.com/apono/', 'https://example.com/apono'],
    ['http://127.0.0.1:7000', 'http://127.0.0.1:7000'],
    ['http://localhost:7000', 'http://localhost:7000'],
    ['http://[::1]:7000', 'http://[::1]:7000'],
    ['localhost:7000', 'https://localhost:7000'],
  ])('APONO_URL %s means %s', (given, meant) => {
    expect(read({ APONO_URL: given }).url).toBe(meant)
  })

  test.each([
    ['http://control.example.com', 'http:// is allowed to loopback only'],
    ['http://127.0.0.1.example.com', 'loopback only'],
    ['ftp://x', 'must be https'],
    ['https://user:pass@x', 'user or password'],
    ['https://x?y=1', 'query'],
    ['https://', 'not a URL'],
  ])('APONO_URL %s is refused', (given, message) => {
    expect(problems({ APONO_URL: given }).join()).toContain(message)
  })

  test('all mistakes come at once, without any value', () => {
    const all = problems({
      APONO_URL: 'http://evil-host.example.com',
      APONO_TOKEN: 'bad token',
      APONO_TOKEN_FILE: '/no/such/file',
      APONO_CONNECTOR_ID: '-no',
      APONO_SECRET_DIR: 'relative-dir',
      APONO_STATE_DIR: '/',
      APONO_SLOTS: '0',
      APONO_HEALTH_LISTEN: 'nonsense-listen',
      APONO_LOG_LEVEL: 'loud-level',
      APONO_CLOUD_PROVIDER: 'moon-cloud',
      APONO_SSH_CONNECT_TIMEOUT_MS: '1.5',
      APONO_GUARD_FILE: '/etc/guard.json',
      APONO_KNOWN_HOSTS_FILE: 'relative-known-hosts',
    })
    const named = all.map((text) => text.split(/[,:]/, 1)[0])
    expect(named.sort()).toEqual([
      'APONO_CLOUD_PROVIDER',
      'APONO_CONNECTOR_ID',
      'APONO_GUARD_FILE',
      'APONO_HEALTH_LISTEN',
      'APONO_KNOWN_HOSTS_FILE',
      'APONO_LOG_LEVEL',
      'APONO_SECRET_DIR',
      'APONO_SLOTS',
      'APONO_SSH_CONNECT_TIMEOUT_MS',
      'APONO_STATE_DIR',
      'APONO_TOKEN',
      'APONO_TOKEN_FILE',
      'APONO_URL',
    ])
    expect(all.join()).not.toMatch(/bad token|evil-host|nonsense|loud|moon|relative|-no\b/)
  })

  test('nothing at all names what is required', () => {
    const result = readConfig({})
    expect(result.ok ? [] : result.problems).toEqual([
      expect.stringMatching(/^APONO_URL: required/),
      'APONO_TOKEN or APONO_TOKEN_FILE: required',
      'APONO_CONNECTOR_ID: required',
    ])
  })

  test('a token from a file is checked at the start', () => {
    const file = path.join(scratchDirectory(), 'token')
    writeFileSync(file, 'tok-1\n')
    expect(readConfig({ ...GOOD, APONO_TOKEN: '', APONO_TOKEN_FILE: file }).ok).toBe(true)
    writeFileSync(file, 'two words')
    expect(problems({ APONO_TOKEN: undefined, APONO_TOKEN_FILE: file })).toEqual(['APONO_TOKEN_FILE: holds no token'])
  })

  test('known_hosts is read at the start, and every line that cannot be is named', () => {
    const file = path.join(scratchDirectory(), 'known_hosts')
    expect(read({}).knownHostsFile).toBeNull()
    expect(problems({ APONO_KNOWN_HOSTS_FILE: file })).toEqual(['APONO_KNOWN_HOSTS_FILE: cannot be read (ENOENT)'])
    writeFileSync(file, '# nothing\n')
    expect(read({ APONO_KNOWN_HOSTS_FILE: file }).knownHostsFile).toBe(file)
    writeFileSync(file, 'db-1 ssh-ed25519\n\n@revokd db-1 ssh-rsa AAAA\n')
    expect(problems({ APONO_KNOWN_HOSTS_FILE: file })).toEqual([
      'APONO_KNOWN_HOSTS_FILE: line 1: names, type and key are expected',
      'APONO_KNOWN_HOSTS_FILE: line 3: not a marker that is known',
    ])
    writeFileSync(file, 'x\n'.repeat(25))
    expect(problems({ APONO_KNOWN_HOSTS_FILE: file })).toHaveLength(21)
    expect(problems({ APONO_KNOWN_HOSTS_FILE: file }).at(-1)).toContain('and 5 more')
    expect(problems({ APONO_KNOWN_HOSTS_FILE: path.dirname(file) }).join()).toContain('not a regular file')
  })

  test('the token cannot be printed', () => {
    const config = read({ APONO_TOKEN: 'very-private-token' })
    expect(JSON.stringify(config)).not.toContain('very-private')
  })

  test('health can be off, or listen elsewhere', () => {
    expect(read({ APONO_HEALTH_LISTEN: 'off' }).healthListen).toBeNull()
    expect(read({ APONO_HEALTH_LISTEN: '[::1]:9' }).healthListen).toEqual({ host: '::1', port: 9 })
  })
})
