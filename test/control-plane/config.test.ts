import { expect, test } from 'vitest'
import { DEFAULT_STATE_DIR, parseControlPlaneConfig } from '../../src/control-plane/config.ts'

const problems = (env: Record<string, string>): readonly string[] => {
  const parsed = parseControlPlaneConfig(env)
  return parsed.ok ? [] : parsed.problems
}

test('nothing given: loopback, one state folder, a database in it', () => {
  expect(parseControlPlaneConfig({})).toEqual({
    ok: true,
    config: {
      listen: { host: '127.0.0.1', port: 8443 },
      tls: null,
      stateDir: DEFAULT_STATE_DIR,
      databasePath: `${DEFAULT_STATE_DIR}/control-plane.db`,
      encryptionKey: null,
      firstAdminTokenFile: null,
      firstConnectorTokenFile: null,
      firstConnectorId: null,
    },
  })
})

test('the configuration cannot be changed later', () => {
  const parsed = parseControlPlaneConfig({})
  expect(parsed.ok && Object.isFrozen(parsed.config) && Object.isFrozen(parsed.config.listen)).toBe(true)
})

test.each([
  ['0.0.0.0:8443', false],
  [':8443', false],
  ['10.0.0.1:443', false],
  ['example.com:443', false],
  ['127.0.0.1:0', true],
  ['localhost:8443', true],
  ['[::1]:8443', true],
])('without TLS %s is allowed: %s', (listen, allowed) => {
  expect(problems({ APONO_LISTEN: listen }).length === 0).toBe(allowed)
  const tls = { APONO_TLS_CERT_FILE: '/c', APONO_TLS_KEY_FILE: '/k' }
  expect(problems({ APONO_LISTEN: listen, ...tls })).toEqual([])
})

test('everything that is wrong is reported at once', () => {
  expect(
    problems({
      APONO_LISTEN: 'nonsense',
      APONO_TLS_CERT_FILE: '/c',
      APONO_DATABASE_URL: 'postgres://u:secret@db/x',
      APONO_ENCRYPTION_KEY: 'a',
      APONO_ENCRYPTION_KEY_FILE: '/b',
      APONO_FIRST_CONNECTOR_ID: 'a b',
    }).map((line) => line.split(':')[0]),
  ).toEqual([
    'APONO_LISTEN',
    'APONO_TLS_KEY_FILE',
    'APONO_DATABASE_URL',
    'APONO_ENCRYPTION_KEY',
    'APONO_FIRST_CONNECTOR_ID',
    'APONO_FIRST_CONNECTOR_ID',
  ])
})

test('a database address never repeats its password', () => {
  expect(problems({ APONO_DATABASE_URL: 'postgres://u:secret@db/x' }).join()).not.toContain('secret')
})

test.each([
  ['/data/cp.db', '/data/cp.db'],
  ['sqlite:/data/cp.db', '/data/cp.db'],
  ['sqlite:///data/cp.db', '/data/cp.db'],
  ['sqlite:cp.db', 'cp.db'],
])('the database %s is the file %s', (url, path) => {
  const parsed = parseControlPlaneConfig({ APONO_DATABASE_URL: url })
  expect(parsed.ok && parsed.config.databasePath).toBe(path)
})

test.each(['mysql://x', '127.0.0.1:99999', ''])('%s is not a place to listen or store', (value) => {
  if (value === '') expect(problems({ APONO_LISTEN: value })).toEqual([])
  else expect(problems({ APONO_LISTEN: value, APONO_DATABASE_URL: 'mysql://x' })).toHaveLength(2)
})
