import {
  chmodSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { readConfig } from '../../src/connector/config.ts'
import { parseGuardFile } from '../../src/connector/guard-file.ts'
import { readGuardFile } from '../../src/connector/guard-file-read.ts'
import { watchGuardFile } from '../../src/connector/guard-file-watch.ts'
import { systemClock } from '../../src/observability/clock.ts'
import { createLogger } from '../../src/observability/log.ts'
import { runCommand } from '../hosts/command.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { startFakeControlPlane } from './fake-control-plane.ts'
import { guardFile, problemsOf } from './guard-setup.ts'
import { job } from './jobs.ts'
import { startTestConnector } from './setup.ts'

const readRules = (content: string): object => {
  const read = parseGuardFile(content)
  return read.ok ? read.rules : {}
}

const root = new URL('../../', import.meta.url).pathname

describe('what a guard file may say', () => {
  test('JSON and YAML are one language here', () => {
    const yaml =
      'version: 1\nhosts:\n  - db-1 # the first\n  - "[2001:db8::/32]:22"\nmaxGrantMs: 3600000\nadopt: [dana]\n'
    const json = '{"version":1,"hosts":["db-1","[2001:db8::/32]:22"],"maxGrantMs":3600000,"adopt":["dana"]}'
    expect(readGuardFile(guardFile(yaml))).toEqual(readGuardFile(guardFile(json)))
    expect(readGuardFile(guardFile(yaml))).toMatchObject({ ok: true, rules: { hosts: [{ text: 'db-1' }, {}] } })
  })

  test.each<[string | object, RegExp]>([
    ['', /^the file: .*expected object/],
    ['hosts: []', /^version: /],
    ['version: 2', /^version: /],
    ['version: "1"', /^version: /],
    [{ host: ['a'] }, /^"host": not a known member$/],
    [{ policy: { existingUser: ['adopt'] } }, /^policy\."existingUser": not a known member$/],
    [{ secrets: [{ store: 'aws', prefix: 'x', acount: '1' }] }, /^secrets\.0\."acount": not a known member$/],
    ['version: 1\nhosts:', /^hosts: .*expected array/],
    ['version: 1\nhosts: db-1', /^hosts: .*expected array/],
    ['version: 1\nhosts: [a]\nhosts: [b]', /^line 3: Map keys must be unique$/],
    ['{"version":1,"hosts":["a"],"hosts":["b"]}', /^line 1: Map keys must be unique$/],
    ['version: 1\n---\nversion: 1', /^more than one document$/],
    ['version: 1\nadopt: yes', /^adopt: must be true, false or a list of logins$/],
    ['version: 1\nadopt: !!js/function x', /^line 2: Unresolved tag/],
    ['version: 1\nhosts: [a', /^line 2: /],
    ['version: 1\n__proto__: {adopt: true}', /^"__proto__": not a known member$/],
    ['version: 1\n<<: {adopt: true}', /^"<<": not a known member$/],
    [
      `version: 1\na: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]`,
      /^aliases/,
    ],
    [{ maxGrantMs: '8h' }, /^maxGrantMs: .*expected number/],
    [{ maxGrantMs: 59_999 }, /^maxGrantMs: .*60000/],
    [{ maxGrantMs: 2_592_000_001 }, /^maxGrantMs: .*2592000000/],
    [{ maxGrantMs: 3_600_000.5 }, /^maxGrantMs: .*int/],
    [{ logins: ['a*b'] }, /^logins\.0: must be a name/],
    [{ logins: ['**'] }, /^logins\.0: must be a name/],
    [{ logins: [''] }, /^logins\.0: must be a name/],
    [{ groups: ['-x'] }, /^groups\.0: must be a name/],
    [{ policy: { trust: ['anything'] } }, /^policy\.trust\.0: .*root_file/],
    [{ policy: { shell: ['bash'] } }, /^policy\.shell\.0: must be an absolute path/],
    [{ policy: { uidRange: [5, 2000] } }, /^policy\.uidRange\.0: .*1000/],
    [{ policy: { uidRange: [3000, 2000] } }, /^policy\.uidRange: the first/],
    [{ secrets: [{ store: 'aws' }] }, /^secrets\.0: must be \{ store, prefix \} or \{ store, name \}$/],
    [{ secrets: [{ store: 'aws', prefix: 'a', name: 'a' }] }, /^secrets\.0: must be/],
    [{ secrets: [{ store: 'aws', prefix: '' }] }, /^secrets\.0\.prefix: /],
    [
      { secrets: [{ store: 'aws', prefix: 'arn:aws:' }] },
      /^secrets\.0\.prefix: must be the beginning of .* as far as ":secret:"/,
    ],
    [{ secrets: [{ store: 'aws', prefix: 'arn:aws:secretsmanager:eu-west-1:1' }] }, /^secrets\.0\.prefix: must be/],
    [{ secrets: [{ store: 'aws', prefix: 'ssh-*' }] }, /^secrets\.0\.prefix: must be the beginning of the name/],
    [{ secrets: [{ store: 'aws', prefix: 'a', region: 'europe' }] }, /^secrets\.0\.region: must be a region/],
    [{ secrets: [{ store: 'gcp', prefix: 'p/', region: 'eu-west-1' }] }, /^secrets\.0\.region: is for the store aws/],
    [
      { secrets: [{ store: 'gcp', prefix: 'my-proj' }] },
      /^secrets\.0\.prefix: must be the beginning of PROJECT\/SECRET/,
    ],
    [
      { secrets: [{ store: 'azure', prefix: 'https://v.vault.azure.net/' }] },
      /^secrets\.0\.prefix: .*vault\.azure\.net/,
    ],
    [{ secrets: [{ store: 'azure', prefix: 'v.vault.azure.net.evil.example/' }] }, /^secrets\.0\.prefix: /],
    [{ secrets: [{ store: 'azure', prefix: 'v.vault.azure.net' }] }, /^secrets\.0\.prefix: /],
    [{ secrets: [{ store: 'kubernetes', prefix: 'apono' }] }, /^secrets\.0\.prefix: .*NAMESPACE/],
    [{ secrets: [{ store: 'hashicorp_vault', prefix: 'kv' }] }, /^secrets\.0\.prefix: .*ENGINE/],
    [{ secrets: [{ store: 'hashicorp_vault', prefix: '/kv/x' }] }, /^secrets\.0\.prefix: .*ENGINE/],
    [{ secrets: [{ store: 'kubernetes', name: 'apono/' }] }, /^secrets\.0\.name: must be NAMESPACE/],
    [{ secrets: [{ store: 'file', prefix: 'ssh' }] }, /^secrets\.0\.prefix: .*absolute/],
    [{ secrets: [{ store: 'apono', name: 'x' }] }, /^secrets\.0\.store: /],
  ])('%j: %s', (content, problem) => {
    expect(problemsOf(content)).toEqual([expect.stringMatching(problem)])
  })

  test.each([
    '*',
    '*.',
    '*example.com',
    'a.*.com',
    'db-1.',
    '.db',
    'a..b',
    'db 1',
    'db/1',
    'db:',
    'db:0',
    'db:65536',
    'db:23-22',
    'db:22-',
    'db:x',
    'db:22:22',
    ':22',
    '10.1.2.3/16',
    '10.1.0.0/33',
    '10.1',
    '0x0a000001',
    '2130706433',
    '127.1:22',
    '010.1.0.0/16',
    '2001:db8::1',
    '2001:db8::1:22',
    '[10.1.0.0/16]:22',
    '[2001:db8::1/32]:22',
    '[::ffff:10.0.0.0/104]:22',
    '[fe80::1%eth0]',
    '[db-1]:22',
    '[]:22',
    'böse.example',
    '',
    'db\n',
    '*.*.com',
  ])('%j is no rule for hosts', (rule) => {
    expect(problemsOf({ hosts: ['db-1', rule] })).toEqual([expect.stringMatching(/^hosts\.1: must be NAME/)])
  })

  test('the example in docs/guard.md is one', () => {
    const page = readFileSync(`${root}docs/guard.md`, 'utf8')
    const example = /```yaml\n(.*?)```/s.exec(page)?.[1] ?? ''
    expect(problemsOf(example)).toEqual([])
    const members = ['version', 'hosts', 'secrets', 'logins', 'groups', 'adopt', 'maxGrantMs', 'policy']
    expect(Object.keys(readRules(example))).toEqual(members)
  })

  test('all problems come at once, without the values', () => {
    const problems = problemsOf({
      hosts: ['bad host'],
      logins: ['bad login'],
      secrets: [{ store: 'gcp', prefix: 'bad' }],
      more: 1,
    })
    expect(problems).toHaveLength(4)
    expect(problems.join()).not.toContain('bad')
    expect(problemsOf({ hosts: Array(30).fill('bad host') })).toHaveLength(21)
    expect(problemsOf({ hosts: Array(30).fill('bad host') }).at(-1)).toBe('and 10 more problems')
    expect(problemsOf('version: 1\nhosts: {private-name\n').join()).not.toContain('private-name')
  })
})

describe('the guard file on its disk', () => {
  test.each<[string, (file: string) => void, RegExp]>([
    ['writable by its group', (file) => chmodSync(file, 0o664), /changed by others/],
    ['writable by everybody', (file) => chmodSync(file, 0o646), /changed by others/],
    ['larger than 1 MiB', (file) => truncateSync(file, 1024 * 1024 + 1), /larger than/],
    ['not UTF-8', (file) => writeFileSync(file, Buffer.from([0x76, 0xff])), /not UTF-8/],
    ['gone', (file) => rmSync(file), /ENOENT/],
    ['a folder', (file) => void [rmSync(file), mkdirSync(file)], /not a regular file/],
  ])('%s: refused', (_name, change, problem) => {
    const file = guardFile({})
    change(file)
    expect(readGuardFile(file)).toMatchObject({ ok: false, problems: [expect.stringMatching(problem)] })
    const config = readConfig({
      APONO_URL: 'x.example',
      APONO_TOKEN: 't',
      APONO_CONNECTOR_ID: 'c',
      APONO_GUARD_FILE: file,
    })
    expect(config).toMatchObject({ ok: false, problems: [expect.stringMatching(/^APONO_GUARD_FILE: /)] })
  })

  test('a FIFO is refused, not waited for', async () => {
    const file = path.join(scratchDirectory(), 'guard.yaml')
    await runCommand('mkfifo', [file])
    expect(readGuardFile(file)).toMatchObject({ problems: ['not a regular file'] })
  })

  test('a link is followed, as Kubernetes mounts a ConfigMap', () => {
    const file = guardFile({ hosts: ['db-1'] })
    symlinkSync(file, `${file}.link`)
    expect(readGuardFile(`${file}.link`)).toMatchObject({ ok: true })
  })

  // Only root can give files away.
  if (process.getuid?.() === 0)
    test('of another user: refused', async () => {
      const file = guardFile({})
      await runCommand('chown', ['4242', file])
      expect(readGuardFile(file)).toMatchObject({ problems: [expect.stringMatching(/belongs to uid 4242/)] })
    })

  test.each(['connector', 'standalone', 'uninstall'])('%s does not start with a broken one: exit 78', async (verb) => {
    const server = path.join(scratchDirectory(), 'server.json')
    writeFileSync(
      server,
      JSON.stringify({ server: { host: 'db-1' }, secretStore: { type: 'file', path: '/secrets/x' } }),
    )
    const args = verb === 'uninstall' ? [verb, '--server-file', server] : [verb]
    const { APONO_URL, APONO_TOKEN } = { APONO_URL: 'http://127.0.0.1:1', APONO_TOKEN: 't' }
    const env = {
      ...(verb === 'connector' ? { APONO_URL, APONO_TOKEN, APONO_CONNECTOR_ID: 'c' } : {}),
      APONO_STATE_DIR: scratchDirectory(),
      APONO_GUARD_FILE: guardFile({ hosts: ['bad host'], adopt: 'x' }),
    }
    const { code, stderr } = await runCommand(process.execPath, [`${root}src/cli.ts`, ...args], { env })
    expect(stderr).toMatch(/^ {2}APONO_GUARD_FILE: hosts\.0: must be/m)
    expect(stderr).toMatch(/^ {2}APONO_GUARD_FILE: adopt: must be/m)
    expect(code).toBe(78)
  })

  test('uninstall is held to it: exit 1', async () => {
    const server = path.join(scratchDirectory(), 'server.json')
    const secretStore = { type: 'file', path: '/secrets/x' }
    writeFileSync(server, JSON.stringify({ server: { host: 'db-1' }, secretStore }))
    const env = { APONO_SECRET_DIR: '/secrets', APONO_GUARD_FILE: guardFile({ secrets: [] }) }
    const args = [`${root}src/cli.ts`, 'uninstall', '--server-file', server]
    const { code, stderr } = await runCommand(process.execPath, args, { env })
    expect(stderr).toContain('denied_by_guard: secrets: file /secrets/x is in none of the 0 rules of')
    expect(code).toBe(1)
  })

  test('without one, the reader of YAML is never loaded', async () => {
    const program = `
      const { readConfig } = await import('${root}src/connector/config.ts')
      readConfig(process.env)
      const { createRequire } = await import('node:module')
      const loaded = Object.keys(createRequire('${root}src/cli.ts').cache).filter((name) => name.includes('/yaml/'))
      console.log(loaded.length > 0)`
    const run = async (env: object) =>
      (await runCommand(process.execPath, ['--input-type=module', '-e', program], { env: { ...env } })).stdout.trim()
    expect(await run({})).toBe('false')
    expect(await run({ APONO_GUARD_FILE: guardFile({}) })).toBe('true')
  })
})

const open = (content: string | object) => {
  const file = guardFile(content)
  const lines: Record<string, unknown>[] = []
  const log = createLogger('info', { write: (text) => void lines.push(JSON.parse(text)) })
  // The clock of the file system is the real one: what was written a moment ago is not still yet.
  let [passed, walled] = [0, 0]
  const clock = { ...systemClock, now: () => Date.now() + walled, monotonic: () => passed }
  const source = watchGuardFile(file, clock, log)
  return {
    file,
    lines,
    source,
    logins: () => source().rules.logins,
    events: () => lines.map(({ event }) => event),
    later: (ms: number) => {
      passed += ms
      walled += ms
    },
    /** For the monotonic clock only: what was written now stays written now. */
    laterToLook: (ms: number) => {
      passed += ms
    },
  }
}
const write = (file: string, content: string | object) => renameSync(guardFile(content), file)

describe('a guard file that changes', () => {
  test('is read again, looked at once a second at most, and told', () => {
    const { file, logins, later, lines } = open({ logins: ['dana'], hosts: ['a', 'b'] })
    write(file, { logins: ['erin'] })
    later(999)
    expect(logins()).toEqual(['dana'])
    later(1001)
    expect(logins()).toEqual(['erin'])
    later(5000)
    expect(logins()).toEqual(['erin'])
    expect(lines).toMatchObject([
      { event: 'guard_file_read', level: 30, path: file, logins: 1, hosts: 2 },
      { event: 'guard_file_read', level: 30, path: file, logins: 1 },
    ])
    expect(JSON.stringify(lines)).not.toMatch(/dana|erin/)
  })

  test('is left alone while it is being written: half of it would be fewer limits', () => {
    const { file, logins, laterToLook } = open({ logins: ['dana'] })
    writeFileSync(file, 'version: 1\n')
    laterToLook(1000)
    expect(logins()).toEqual(['dana'])
    writeFileSync(file, 'version: 1\nlogins: [erin]\n')
    laterToLook(1000)
    expect(logins()).toEqual(['dana'])
    laterToLook(1000)
    expect(logins()).toEqual(['erin'])
  })

  test('while it is broken the last good rules are kept and it says so, once; then it goes on by itself', () => {
    const { file, source, later, events, lines } = open({ logins: ['dana'] })
    const once = (change: () => void) => {
      change()
      later(3000)
      const { rules, problems } = source()
      return [rules.logins, problems]
    }
    expect(once(() => write(file, { logins: ['a b'] }))).toEqual([['dana'], [expect.stringMatching(/^logins\.0/)]])
    expect(once(() => rmSync(file))).toEqual([['dana'], ['cannot be read (ENOENT)']])
    expect(once(() => undefined)).toEqual([['dana'], ['cannot be read (ENOENT)']])
    expect(once(() => write(file, { logins: ['erin'] }))).toEqual([['erin'], []])
    expect(once(() => chmodSync(file, 0o666))).toEqual([['erin'], [expect.stringMatching(/changed by others/)]])
    expect(once(() => chmodSync(file, 0o600))).toEqual([['erin'], []])
    const twice = ['guard_file_broken', 'guard_file_mended']
    expect(events()).toEqual(['guard_file_read', ...twice, ...twice])
    expect(lines[1]).toMatchObject({ level: 50, path: file, problems: [expect.stringMatching(/^logins\.0/)] })
  })

  test('that is gone is broken at once', () => {
    const { file, source, later } = open({ logins: ['dana'] })
    rmSync(file)
    later(1000)
    expect(source().problems).toEqual(['cannot be read (ENOENT)'])
  })

  test('has nothing to fall back on at the start', () => {
    expect(() => watchGuardFile(guardFile({ more: 1 }), systemClock)).toThrow(/^APONO_GUARD_FILE: .*"more"/)
  })
})

describe('a connector with a guard file', () => {
  test('reports what it denies by the rule, and says at the start what holds', async () => {
    const controlPlane = await startFakeControlPlane()
    const file = guardFile({ hosts: ['db-2'] })
    const { connector, lines, secretDirectory } = await startTestConnector(controlPlane, {
      env: { APONO_GUARD_FILE: file },
    })
    try {
      controlPlane.enqueue(job({ host: 'db-1', secretPath: path.join(secretDirectory, 'ssh.json') }))
      await controlPlane.until(() => controlPlane.reports().length > 0, 'the outcome')
      const error = { code: 'denied_by_guard', message: `hosts: db-1:22 is not in the 1 rule of ${file}` }
      expect(controlPlane.reports()).toMatchObject([{ outcome: 'failed', error }])
      expect(lines).toContainEqual(expect.objectContaining({ event: 'guard_file_read', path: file, hosts: 1 }))
    } finally {
      await connector.stop()
      await controlPlane.close()
    }
  })
})
