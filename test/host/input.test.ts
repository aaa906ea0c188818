import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { JobError } from '../../src/host/errors.ts'
import { readAbsentReply, readCleanupReply, readInspectReply, readPresentReply } from '../../src/host/facts.ts'
import { cleanup, ensureAbsent, ensurePresent, inspect } from '../../src/host/host-program.ts'
import { type ParameterName, type Parameters, programInput } from '../../src/host/parameters.ts'
import { type Operation, PROGRAM_END, programFor } from '../../src/host/program-text.ts'
import { readReply } from '../../src/host/reply.ts'
import { Policy } from '../../src/protocol/integration.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson, type Person, runContext } from './person.ts'

/**
 * Nothing that comes in as data is ever run: neither what Node is asked to send, nor what the program is sent past Node,
 * nor what a server prints.
 */
const CANARY = '/tmp/canary'

/** What has got through somewhere before, whole or in pieces. */
const poison = fc.constantFrom(
  `$(touch ${CANARY})`,
  `\`touch ${CANARY}\``,
  `;touch ${CANARY};`,
  `'; touch ${CANARY}; '`,
  `"; touch ${CANARY}; "`,
  `\${IFS}touch\${IFS}${CANARY}`,
  `| touch ${CANARY}`,
  `\nop=absent`,
  `\ntouch ${CANARY}`,
  '\r',
  '\0',
  '\u00a0',
  '\u2028',
  '../..',
  '-rf',
  '*',
  '~',
  '=',
  'dana,root',
  'ünï',
  '\\',
  '%s%n',
  'root',
  'APONO_PROGRAM_END',
)
const wild = fc.oneof(
  poison,
  fc.string({ maxLength: 40 }),
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.tuple(fc.stringMatching(/^[a-z]{1,8}$/), poison).map((parts) => parts.join('')),
  fc.constant('x'.repeat(70_000)),
)

const id = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9_-]{0,20}$/)
const hash = fc.stringMatching(/^[0-9a-f]{64}$/)
const number = fc.nat({ max: 2 ** 31 - 1 }).map(String)
const account = fc.stringMatching(/^[a-z_][a-z0-9_-]{0,20}$/)

/** Values as the connector sends them. */
const proper: Readonly<Record<ParameterName, fc.Arbitrary<string>>> = {
  op: fc.constantFrom('present', 'absent', 'inspect', 'install', 'cleanup', 'uninstall'),
  cp: id,
  user: account,
  now: number,
  fresh_host: id,
  host: fc.oneof(id, fc.constant('')),
  sshd: fc.constantFrom('902', '804', '0'),
  grant: id,
  generation: number,
  epoch: number,
  login: account,
  person: hash,
  groups: fc.array(account, { maxLength: 3 }).map((names) => names.join(',')),
  not_after: number,
  content: hash,
  ca_type: fc.constant('ssh-ed25519'),
  ca_key: fc.stringMatching(/^[A-Za-z0-9+/]{20,68}$/),
  trust: fc.constantFrom('root_file', 'home'),
  shell: fc.constantFrom('/bin/bash', '/bin/sh'),
  uid_low: number,
  uid_high: number,
  on_revoke: fc.constantFrom('lock', 'keep'),
  root_processes: fc.constantFrom('session', 'all'),
  existing: fc.constantFrom('refuse', 'adopt'),
  timer: fc.constantFrom('wanted', 'none'),
  program: hash,
  homes: fc.constantFrom('archive', 'delete'),
  keep_uids: fc.constantFrom('yes', 'no'),
}
const names = Object.keys(proper) as ParameterName[]
const properSet = fc.record(proper) as fc.Arbitrary<Parameters>
/** A proper set with one to three values that are anything at all. */
const wildSet: fc.Arbitrary<Parameters> = fc
  .tuple(properSet, fc.array(fc.tuple(fc.constantFrom(...names), wild), { minLength: 1, maxLength: 3 }))
  .map(([set, changes]) => ({ ...set, ...Object.fromEntries(changes) }))

const nonce = 'f'.repeat(32)
/** The lines between the call and the end of its heredoc; all before it is constant. */
const blockOf = (input: string, operation: Operation): string[] => {
  const carries =
    operation === 'install'
      ? [`apono_text() { cat <<'${PROGRAM_END}'\n`, `\n${PROGRAM_END}\n}\neval "$(apono_text)"`]
      : ['{\n', '\n}']
  const head = `${carries.join(programFor(operation))}\napono_main ${nonce} <<'APONO_EOF_${nonce}'\n`
  expect(input.startsWith(head)).toBe(true)
  return input.slice(head.length).split('\n')
}

describe('what Node sends', () => {
  it('is the program, and one line of allowed characters for each value; or nothing, by a named error', () => {
    fc.assert(
      fc.property(fc.oneof(wildSet, properSet), (set) => {
        let input: string
        try {
          input = programInput(nonce, set)
        } catch (error) {
          expect(error).toMatchObject({ code: 'invalid_grant' })
          return
        }
        const lines = blockOf(input, set.op)
        expect(lines).toEqual([
          ...names.map((name) => `${name}=${set[name]}`),
          `end=${nonce}`,
          `APONO_EOF_${nonce}`,
          'exit',
          '',
        ])
        for (const line of lines.slice(0, names.length)) expect(line).toMatch(/^[a-z_]+=[A-Za-z0-9+/=,._-]*$/)
      }),
      { numRuns: 10_000 },
    )
  })

  it('is no number that a shell takes for an octal one', () => {
    expect(() => programInput(nonce, { op: 'inspect', now: '08' })).toThrow('now')
    expect(() => programInput(nonce, { op: 'inspect', now: '0' })).not.toThrow()
  })
})

describe('what a server prints', () => {
  const begun = 'a'.repeat(32)
  const word = fc.constantFrom(
    'field',
    'fail',
    'end',
    'begin',
    'ok',
    'failed',
    'uid=0',
    'host_id',
    'h_1',
    'residue',
    'problem',
    'ledger',
    'true',
    '20000',
    'setuid_file',
    'error',
    '-1',
    '__proto__',
    'constructor',
  )
  const line = fc.oneof(
    fc
      .array(fc.oneof(word, fc.string({ maxLength: 10 })), { maxLength: 7 })
      .map((words) => `apono1 ${begun} ${words.join(' ')}`),
    fc.string({ unit: 'binary', maxLength: 60 }),
  )
  const text = fc
    .array(line, { maxLength: 12 })
    .map((lines) => [`apono1 ${begun} begin uid=0`, ...lines, `apono1 ${begun} end ok`].join('\n'))
  const link = {
    user: 'apono',
    host: 'h',
    port: 22,
    serverSoftware: 'OpenSSH_9.2',
    hostKey: 'ssh-ed25519 AAAA',
    exec: () => Promise.reject(new Error('unused')),
  }

  const inspection = { link, context: runContext(), facts: {}, by: 'sudo' } as const

  it('becomes a result that fits the protocol, or a named error; nothing else ever', () => {
    fc.assert(
      fc.property(text, (stdout) => {
        const outcome = { stdout, stderr: '', exitCode: 0, exitSignal: null }
        for (const read of [
          () => readPresentReply(readReply(outcome, begun, {})),
          () => readAbsentReply(readReply(outcome, begun, {}), 'dana'),
          () => readCleanupReply(readReply(outcome, begun, {}), 'dana'),
          () => readInspectReply(readReply(outcome, begun, {}), inspection),
        ]) {
          try {
            read()
          } catch (error) {
            expect(error).toBeInstanceOf(JobError)
          }
        }
      }),
      { numRuns: 5000 },
    )
  })
})

describe('on a server', () => {
  let host: TestHost
  let person: Person
  beforeAll(async () => {
    host = await startHost()
    person = await makePerson(host)
  })
  afterAll(() => host?.stop())

  const untouched = async () =>
    expect((await host.exec(`ls ${CANARY} 2>&1; ls /root`)).stdout).toBe(
      `ls: cannot access '${CANARY}': No such file or directory\n`,
    )

  /** Blocks as nobody who keeps to the allow-list would send them: raw lines, names that are not, and no end. */
  const rawBlock = fc.oneof(
    wildSet.map((set) =>
      Object.entries(set)
        .map(([name, value]) => `${name}=${value}`)
        .join('\n'),
    ),
    fc
      .array(
        fc.tuple(fc.oneof(fc.constantFrom<string>(...names), wild), wild).map((pair) => pair.join('=')),
        { maxLength: 6 },
      )
      .map((lines) => lines.join('\n')),
  )

  it.each([
    ['dash', 'dash'],
    ['bash', 'bash'],
    ['BusyBox', 'busybox ash'],
    ['mksh', 'mksh'],
  ])(
    '%s refuses 2,500 blocks that Node never sent, or takes them as data',
    async (_name, shell) => {
      const end = randomBytes(16).toString('hex')
      const blocks = fc.sample(rawBlock, 2500).map((block) => block.replaceAll('\0', '').slice(0, 2000))
      const cases = blocks.map(
        (block, index) => `(parameters; echo "case ${index} taken") <<'END_${end}'\n${block}\nend=n\nEND_${end}\n`,
      )
      const driver = `${programFor('present')}\nNONCE=n\nset -f\nplaces\n${cases.join('')}echo "all done"\n`
      const { stdout, stderr } = await host.exec(shell.split(' '), { input: driver, timeoutMs: 120_000 })
      const ends = stdout
        .split('\n')
        .filter((line) => /^apono1 n fail (?:invalid_grant|invalid_job) |^case \d+ taken$/.test(line))
      expect({ ends: ends.length, stderr }).toEqual({ ends: blocks.length, stderr: '' })
      expect(stdout).toContain('all done')
      await untouched()
    },
    150_000,
  )

  it.each([
    ['dash', 'dash'],
    ['mksh', 'mksh'],
  ])(
    '%s takes whatever Node lets through',
    async (_name, shell) => {
      const sets = fc.sample(properSet, 300).filter((set) => set.groups !== undefined)
      const end = randomBytes(16).toString('hex')
      const cases = sets.map((set) => {
        programInput(nonce, set)
        const block = Object.entries(set)
          .map(([name, value]) => `${name}=${value}`)
          .join('\n')
        return `(parameters; echo taken) <<'END_${end}'\n${block}\nend=n\nEND_${end}\n`
      })
      const driver = `${programFor('present')}\nNONCE=n\nset -f\nplaces\n${cases.join('')}`
      const { stdout } = await host.exec([shell], { input: driver, timeoutMs: 60_000 })
      expect(stdout).toBe('taken\n'.repeat(sets.length))
    },
    90_000,
  )

  it('the program itself refuses a number that the shell takes for an octal one', async () => {
    const driver = `${programFor('present')}\nNONCE=n\nset -f\nplaces\n(need_number now 08)\n(need_number now 0; need_number now 10)\n`
    const { stdout } = await host.exec(['dash'], { input: driver })
    expect(stdout).toBe('apono1 n fail invalid_grant now\napono1 n end failed\n')
  })

  it('whole runs with random wishes end in success or in a named error, and the server stays in order', async () => {
    const wish = fc.record({
      kind: fc.constantFrom('present', 'absent', 'cleanup', 'inspect'),
      id: fc.constantFrom('grt_a', 'grt_b', 'grt_c', 'grt_d'),
      login: fc.constantFrom('ann', 'bob', 'root', 'daemon', 'apono', 'Cy', 'x'.repeat(40)),
      generation: fc.integer({ min: 1, max: 6 }),
      groups: fc.subarray(['dbadmins', 'developers', 'nosuch']),
      policy: fc.record({
        trust: fc.constantFrom('root_file', 'home'),
        onRevoke: fc.constantFrom('lock', 'keep'),
        existingUser: fc.constantFrom('refuse', 'adopt'),
        rootProcesses: fc.constantFrom('session', 'all'),
      }),
    })
    const before = await host.exec('grep -v "^ann:\\|^bob:" /etc/passwd; grep -E "^(root|sudo|adm|shadow):" /etc/group')
    for (const { kind, ...grant } of fc.sample(wish, 120)) {
      const policy = Policy.parse(grant.policy)
      const act = {
        present: () => ensurePresent(person.link, runContext(), person.request(grant, 'present')),
        absent: () => ensureAbsent(person.link, runContext(), person.request(grant, 'absent')),
        cleanup: () => cleanup(person.link, runContext(), { login: grant.login, policy }),
        inspect: () => inspect(person.link, runContext()),
      }[kind]
      const error = await act().then(
        () => null,
        (reason: unknown) => reason,
      )
      if (error !== null) {
        expect(error).toBeInstanceOf(JobError)
        expect(['internal_error', 'interrupted', 'shell_hijacked']).not.toContain((error as JobError).code)
      }
    }
    expect(
      await host.exec('grep -v "^ann:\\|^bob:" /etc/passwd; grep -E "^(root|sudo|adm|shadow):" /etc/group'),
    ).toEqual(before)
    expect((await host.exec('pwck -rq; grpck -r')).code).toBe(0)
    await untouched()
  }, 200_000)
})
