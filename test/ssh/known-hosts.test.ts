import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { sshString } from '../../src/protocol/ssh-wire.ts'
import { findKeys, keyFinder, knownHostsName, parseKnownHosts } from '../../src/ssh/known-hosts.ts'
import { scratchDirectory } from '../hosts/scratch.ts'

const key = (n: number): string =>
  `ssh-ed25519 ${Buffer.concat([sshString('ssh-ed25519'), sshString(Buffer.alloc(32, n))]).toString('base64')}`
const blob = (type: string, ...fields: string[]): string =>
  `${type} ${Buffer.concat([type, ...fields].map((field) => sshString(field))).toString('base64')}`
const [A, B, C] = [key(1), key(2), key(3)]

const find = (text: string, host: string, port = 22) => {
  const hosts = parseKnownHosts(text)
  expect(hosts.problems).toEqual([])
  return findKeys(hosts, host, port)
}
const knows = (text: string, host: string, port = 22): boolean => find(text, host, port).known.length > 0

// Of no server here; the form is that of `ssh-keygen -H`.
const HASHED = '|1|9jqezQCyqBDQBoxOj7tGhx3e1fU=|zVxQ0LQUdWfr42fg5EAVYFGbYSU='

test('a server is looked up once in a list, and each by its own name and port', () => {
  const found = keyFinder(parseKnownHosts(`db-1 ${A}\n[db-1]:2222 ${B}\ndb-2 ${C}`))
  const keys = (host: string, port: number) => found(host, port).known
  expect([keys('db-1', 22), keys('db-1', 2222), keys('db-2', 22)]).toEqual([[A], [B], [C]])
  expect(found('db-1', 22)).toBe(found('DB-1', 22))
})

describe('names', () => {
  const rows: [string, string, number, boolean][] = [
    ['db-1', 'db-1', 22, true],
    ['db-1', 'DB-1', 22, true],
    ['Db-1', 'dB-1', 22, true],
    ['db-1', 'db-1.example', 22, false],
    ['db-1', 'db-1', 2222, false],
    ['[db-1]:2222', 'db-1', 2222, true],
    ['[db-1]:2222', 'db-1', 22, false],
    ['[db-1]:22', 'db-1', 22, false],
    ['web,db-1,10.0.0.1', 'db-1', 22, true],
    ['web,db-1,10.0.0.1', '10.0.0.1', 22, true],
    ['web,,db-1,', 'db-1', 22, true],
    [',', 'db-1', 22, false],
    ['*', 'db-1', 22, true],
    ['*', 'db-1', 2222, true],
    ['db-?', 'db-1', 22, true],
    ['db-?', 'db-10', 22, false],
    ['db-*', 'db-', 22, true],
    ['*.example', 'a.b.example', 22, true],
    ['*a*b*', 'xxaxxbxx', 22, true],
    ['*a*b', 'ab-ba', 22, false],
    ['[*]:22*', 'db-1', 2222, true],
    ['*.example,!bad.example', 'good.example', 22, true],
    ['*.example,!bad.example', 'bad.example', 22, false],
    ['!bad.example,*.example', 'BAD.example', 22, false],
    ['*,!*', 'db-1', 22, false],
    ['!web', 'db-1', 22, false],
    ['fd00::1', 'FD00:0:0::1', 22, true],
    ['fd00:0::1', 'fd00::1', 22, false],
    ['[fd00::1]:2222', 'fd00::1', 2222, true],
    ['10.0.0.*', '10.0.0.77', 22, true],
    ['db.1', 'dbx1', 22, false],
  ]
  test.each(rows)('%s for %s at %i: %s', (names, host, port, expected) => {
    expect(knows(`${names} ${A}`, host, port)).toBe(expected)
  })

  test('a pattern made to take long does not', () => {
    const text = `${'*a'.repeat(400)}b ${A}`
    const from = performance.now()
    expect(knows(text, 'a'.repeat(253))).toBe(false)
    expect(performance.now() - from).toBeLessThan(200)
  })

  test('at port 22 it is the bare name, elsewhere [host]:port, as ssh writes it', () => {
    expect([knownHostsName('DB-1', 22), knownHostsName('DB-1', 23)]).toEqual(['db-1', '[db-1]:23'])
    expect([knownHostsName('FD00::0:1', 22), knownHostsName('FD00::1', 23)]).toEqual(['fd00::1', '[fd00::1]:23'])
  })
})

describe('lines', () => {
  test('comments, blank lines, tabs, spaces around, trailing comments, CRLF, no end of line', () => {
    const text = `# one\r\n\r\n  # two\n \t\nweb ${B}\r\n\t db-1\t \t${A.replace(' ', '\t')}  root@db-1 # a comment\r`
    expect(find(text, 'db-1').known).toEqual([A])
    expect(find(text, 'web').known).toEqual([B])
  })

  test('every key of a server, each once', () => {
    expect(find(`db-1 ${A}\n* ${B}\ndb-1,web ${A}`, 'db-1').known).toEqual([A, B])
  })

  test('markers: revoked at every port of the name, authorities by line, neither is a key that is known', () => {
    const text = `@revoked db-1 ${A}\n@cert-authority *.example,db-1\t${B}\n@revoked [db-1]:2222 ${C}`
    expect(find(text, 'db-1')).toEqual({ known: [], revoked: [A], authorities: [2] })
    expect(find(text, 'db-1', 2222)).toEqual({ known: [], revoked: [A, C], authorities: [] })
    expect(find(text, 'db-2', 2222)).toEqual({ known: [], revoked: [], authorities: [] })
  })

  test.each([
    'ssh-dss',
    'ssh-rsa',
    'ecdsa-sha2-nistp256',
    'ecdsa-sha2-nistp384',
    'ecdsa-sha2-nistp521',
    'sk-ssh-ed25519@openssh.com',
    'sk-ecdsa-sha2-nistp256@openssh.com',
  ])('%s is a type that is known', (type) => {
    const counts: Record<string, number> = { 'ssh-dss': 4, 'sk-ecdsa-sha2-nistp256@openssh.com': 3 }
    const line = blob(type, ...Array(counts[type] ?? 2).fill('x'))
    expect(find(`db-1 ${line}`, 'db-1').known).toEqual([line])
  })

  const unreadable: [string, string, string][] = [
    ['no key', 'db-1', 'names, type and key'],
    ['no base64', 'db-1 ssh-ed25519', 'names, type and key'],
    ['a marker alone', '@revoked', 'names, type and key'],
    ['an unknown marker', `@revokd db-1 ${A}`, 'marker'],
    ['a marker in capitals', `@REVOKED db-1 ${A}`, 'marker'],
    ['two markers', `@revoked @cert-authority db-1 ${A}`, 'names, type and key|type of key'],
    ['a key of SSH 1', 'db-1 1024 35 1234567', 'type of key'],
    ['a certificate', `db-1 ${blob('ssh-ed25519-cert-v01@openssh.com', 'x')}`, 'type of key'],
    ['a type of the future', `db-1 ${blob('ssh-mldsa', 'x')}`, 'type of key'],
    ['options of authorized_keys', `restrict db-1 ${A}`, 'type of key'],
    ['a key that is cut off', `db-1 ${A.slice(0, -8)}`, 'cut off'],
    ['a key that is no base64', `db-1 ${A}!`, 'not base64'],
    ['another type inside', `db-1 ssh-rsa ${A.split(' ')[1]}`, 'differs'],
    ['bytes after the key', `db-1 ${blob('ssh-ed25519', 'x', 'y')}`, 'after the end'],
    ['a huge length inside', `db-1 ssh-ed25519 ${Buffer.from('ffffffff00', 'hex').toString('base64')}`, 'cut off'],
    ['a byte order mark', `\ufeffdb-1 ${A}`, 'printable'],
    ['UTF-16', Buffer.from(`db-1 ${A}`, 'utf16le').toString('utf8'), 'NUL'],
    ['line ends of old', `# mine\r@revoked db-1 ${A}\rweb ${B}`, 'carriage return'],
    ['a hash of the future', `|2|AAAA|AAAA ${A}`, 'hashed'],
    ['a hash that is cut off', `${HASHED.slice(0, -4)} ${A}`, 'hashed'],
    ['two hashes', `${HASHED},${HASHED} ${A}`, 'hashed'],
    ['a name of a thousand characters', `${'a'.repeat(1001)} ${A}`, 'longer'],
  ]
  test.each(unreadable)('%s is a problem with its line, and the others count', (_name, line, reason) => {
    const hosts = parseKnownHosts(`web ${B}\n\n${line}\ndb-2 ${C}`)
    expect(hosts.problems).toEqual([{ line: 3, reason: expect.stringMatching(reason) }])
    expect(hosts.entries.map(({ line: number }) => number)).toEqual([1, 4])
    expect(findKeys(hosts, 'db-1', 22)).toEqual({ known: [], revoked: [], authorities: [] })
  })
})

test('whatever the text is, each line of it is a comment, an entry or a problem', () => {
  const piece = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.constantFrom(
      ' ',
      '\t',
      '\r',
      '\n',
      '\r\n',
      '#',
      '@revoked ',
      '@cert-authority ',
      '|1|',
      HASHED,
      A,
      'ssh-rsa ',
      '*,!',
    ),
  )
  const text = fc.array(piece, { maxLength: 20 }).map((pieces) => pieces.join(''))
  fc.assert(
    fc.property(text, (generated) => {
      const { entries, problems } = parseKnownHosts(generated)
      const seen = new Set([...entries, ...problems].map(({ line }) => line))
      const lines = generated.split('\n')
      expect(seen.size).toBe(entries.length + problems.length)
      for (const [index, line] of lines.entries()) {
        const blank = /^[ \t]*(?:#[^\r\0]*)?\r?$/.test(line)
        expect({ line, seen: seen.has(index + 1) }).toEqual({ line, seen: !blank })
      }
      findKeys({ entries, problems }, 'db-1', 22)
    }),
    { numRuns: 2000 },
  )
})

describe('the same as ssh-keygen finds', () => {
  const directory = scratchDirectory()
  const HOSTS = ['a', 'b', 'ab', 'a.x', 'b.x', '10.0.0.1', 'fd00::1'] as const
  const PORTS = [22, 2222] as const

  /** The lines that the real thing finds for a name, however they are marked. */
  const found = (file: string, name: string): number[] => {
    const { stdout } = spawnSync('ssh-keygen', ['-F', name, '-f', file], { encoding: 'utf8' })
    return [...stdout.matchAll(/^# Host .* found: line (\d+)/gm)].map(([, line]) => Number(line))
  }
  const ours = (text: string, host: string, port: number): number[] => {
    const { entries } = parseKnownHosts(text)
    // One at a time, so that a key that is known twice counts twice. At every port is our own rule for @revoked.
    const hit = (entry: (typeof entries)[number]): boolean => {
      const asKnown = { entries: [{ ...entry, marker: 'none' as const }], problems: [] }
      return findKeys(asKnown, host, port).known.length > 0
    }
    return entries.filter(hit).map(({ line }) => line)
  }

  const atom = fc.constantFrom('a', 'b', 'A', '.x', '*', '?', '10.0.0.1', 'fd00::1', '[', ']:2222', ']:22', '-')
  const word = fc.oneof(
    fc.array(atom, { minLength: 1, maxLength: 4 }).map((atoms) => atoms.join('')),
    fc.constantFrom(...HOSTS, ...HOSTS.map((host) => `[${host}]:2222`)),
  )
  const pattern = fc.tuple(fc.constantFrom('', '', '', '!'), word).map((parts) => parts.join(''))
  const names = fc.array(pattern, { minLength: 1, maxLength: 4 }).map((patterns) => patterns.join(','))
  const entry = fc
    .tuple(
      fc.constantFrom('', '', ' ', '\t'),
      fc.constantFrom('', '', '', '@revoked ', '@cert-authority  '),
      names,
      fc.constantFrom(' ', '\t', ' \t '),
      fc.nat(200),
      fc.constantFrom('', '', ' comment', '\tdana@x # y'),
    )
    .map(([indent, marker, list, gap, n, comment]) => `${indent}${marker}${list}${gap}${key(n)}${comment}`)
  const line = fc.oneof({ weight: 8, arbitrary: entry }, { weight: 1, arbitrary: fc.constantFrom('', '# a', ' \t') })
  const file = fc
    .tuple(fc.array(line, { minLength: 1, maxLength: 40 }), fc.constantFrom('\n', '\n', '\r\n'))
    .map(([lines, end]) => lines.map((one) => `${one}${one === '' ? '\n' : end}`).join(''))
  const target = fc.tuple(fc.constantFrom(...HOSTS), fc.constantFrom(...PORTS))

  const agree = (path: string, targets: readonly (readonly [string, number])[]): void => {
    const text = readFileSync(path, 'utf8')
    expect(parseKnownHosts(text).problems).toEqual([])
    for (const [host, port] of targets) {
      const name = knownHostsName(host, port)
      expect({ name, lines: ours(text, host, port) }).toEqual({ name, lines: found(path, name) })
    }
  }

  test('in plain files', () => {
    const path = join(directory, 'plain')
    fc.assert(
      fc.property(file, fc.array(target, { minLength: 4, maxLength: 4 }), (text, targets) => {
        writeFileSync(path, text)
        agree(path, targets)
      }),
      { numRuns: 50 },
    )
  }, 60_000)

  test('in files that ssh-keygen -H has hashed', () => {
    const path = join(directory, 'hashed')
    fc.assert(
      fc.property(file, fc.array(target, { minLength: 3, maxLength: 3 }), (text, targets) => {
        writeFileSync(path, text.replaceAll('\r', ''))
        execFileSync('ssh-keygen', ['-q', '-H', '-f', path], { stdio: 'ignore' })
        agree(path, targets)
      }),
      { numRuns: 40 },
    )
  }, 60_000)

  test('and what it hashed is really hashed', () => {
    const path = join(directory, 'one')
    writeFileSync(path, `db-1,[DB-1]:2222 ${A}\n`)
    execFileSync('ssh-keygen', ['-q', '-H', '-f', path], { stdio: 'ignore' })
    const text = readFileSync(path, 'utf8')
    expect(text).toMatch(/^\|1\|\S+\|\S+ ssh-ed25519 \S+\n\|1\|/)
    expect([knows(text, 'Db-1'), knows(text, 'db-1', 2222), knows(text, 'db-1', 23), knows(text, 'db-2')]).toEqual([
      true,
      true,
      false,
      false,
    ])
  })
})
