import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { checkGuard } from '../../src/connector/guard-check.ts'
import { runCommand } from '../hosts/command.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { type Asked, guardFile, jobOf } from './guard-setup.ts'

const cli = new URL('../../src/cli.ts', import.meta.url).pathname

/** Whoever asks DNS or opens a socket ends the process. */
const OFFLINE = `data:text/javascript,${encodeURIComponent(`
import dns from 'node:dns'
import net from 'node:net'
import { syncBuiltinESMExports } from 'node:module'
const end = () => process.exit(99)
dns.lookup = dns.promises.lookup = net.connect = net.createConnection = net.Socket.prototype.connect = end
syncBuiltinESMExports()`)}`

const jobFile = (content: string | object): string => {
  const file = path.join(scratchDirectory(), 'job.json')
  writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content))
  return file
}

const run = async (...args: string[]) => {
  const env = { APONO_SECRET_DIR: '/secrets', APONO_GUARD_FILE: '/nowhere', NODE_OPTIONS: `--import=${OFFLINE}` }
  return await runCommand(process.execPath, [cli, 'guard', ...args], { env })
}
const check = (content: object, asked: Asked, now = Date.now()) =>
  checkGuard(guardFile(content), jobFile(jobOf(asked)), { secretDirectory: '/secrets', now })

describe('apono-connector guard check', () => {
  test('0: admitted, offline', async () => {
    const { code, stdout, stderr } = await run('check', guardFile({ hosts: ['db-1'] }), jobFile(jobOf({})))
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/^admitted\n\(db-1 is looked up when the job runs/)
  })

  test('1: denied, with what to add', async () => {
    const file = guardFile({ hosts: ['db-2'] })
    const { code, stdout } = await run('check', file, jobFile(jobOf({})))
    expect(stdout).toBe(
      `denied_by_guard: hosts: db-1:22 is not in the 1 rule of ${file}\nIf this should be allowed: add "db-1:22" to hosts in ${file}.\n`,
    )
    expect(code).toBe(1)
  })

  test('2: DNS decides, which is not asked', async () => {
    const content = { hosts: ['10.1.0.0/16', '[2001:db8::/32]:*', '10.9.0.0/16:23', 'db-2'] }
    const { code, stdout } = await run('check', guardFile(content), jobFile(jobOf({})))
    expect(stdout).toBe(
      'depends: db-1 is looked up when the job runs; every address must be in 10.1.0.0/16 or [2001:db8::/32]:*\n',
    )
    expect(code).toBe(2)
  })

  test('78: every problem of either file', async () => {
    const [file, job] = [guardFile({ hosts: ['bad host'], more: 1 }), jobFile({ ...jobOf({}), epoch: 0, server: {} })]
    const { code, stdout, stderr } = await run('check', file, job)
    expect({ code, stdout }).toEqual({ code: 78, stdout: '' })
    for (const problem of [`${file}: hosts.0: `, `${file}: "more": `, `${job}: epoch: `, `${job}: server.host: `]) {
      expect(stderr).toContain(`\n  ${problem}`)
    }
  })

  test.each([[[]], [['check']], [['check', 'x']], [['check', 'x', 'y', 'z']], [['chekc', 'x', 'y']]])(
    '64: %j is misspelt',
    async (args) => {
      const { code, stderr } = await run(...args)
      expect(code).toBe(64)
      expect(stderr).toContain('guard check FILE JOB.json')
    },
  )

  test.each<[object, Asked, object]>([
    [{}, { host: '10.0.0.1' }, { kind: 'admitted', text: 'admitted' }],
    [{ hosts: ['10.0.0.0/8'] }, { host: '10.0.0.1' }, { kind: 'admitted', text: 'admitted' }],
    [{}, { host: '127.0.0.1' }, { kind: 'denied' }],
    [{}, { host: 'localhost' }, { kind: 'denied' }],
    [{}, { secretPath: '/etc/shadow' }, { kind: 'denied', text: expect.stringContaining('/secrets only') }],
    [{ logins: [] }, { kind: 'inspect' }, { kind: 'admitted' }],
    [{ logins: [] }, {}, { kind: 'denied', text: expect.stringContaining('logins: dana') }],
    [
      {},
      { grant: { login: 'root' } },
      { kind: 'problems', problems: [expect.stringMatching(/job\.json: login_system: /)] },
    ],
    [{}, { grant: { groups: ['x'] } }, { kind: 'problems', problems: [expect.stringMatching(/group_not_allowed: /)] }],
  ])('%j of %j', (content, asked, outcome) => {
    expect(check(content, asked)).toMatchObject(outcome)
  })

  test('a file that is not there, is not JSON, or would write to the terminal', () => {
    const setting = { secretDirectory: '/secrets', now: Date.now() }
    const problems = (job: string) => {
      const outcome = checkGuard(guardFile({}), job, setting)
      return outcome.kind === 'problems' ? outcome.problems : []
    }
    expect(problems('/no/job.json')).toEqual(['/no/job.json: cannot be read (ENOENT)'])
    expect(problems(jobFile('{'))).toEqual([expect.stringMatching(/is not JSON$/)])
    expect(problems(jobFile('[]'))).toEqual([expect.stringMatching(/the job: /)])
    const job = jobOf({})
    const odd = { ...job, server: { host: 'db-1', id: 's', name: 'n', tags: { '\u001b[2J': 1 } } }
    expect(problems(jobFile(odd))).toEqual([expect.stringMatching(/server\.tags\.\?\[2J: /)])
  })
})
