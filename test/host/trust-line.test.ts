import { writeFile } from 'node:fs/promises'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { ensurePresent } from '../../src/host/host-program.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson, runContext } from './person.ts'

let host: TestHost
beforeAll(async () => {
  host = await startHost()
})
afterAll(() => host?.stop())

/** The program works the calendar out by itself: no two servers have the same `date`. */
it.each([
  ['a leap day', '2028-02-29T23:59:59Z', '20280229235959Z'],
  ['the day after one', '2028-03-01T00:00:00Z', '20280301000000Z'],
  ['the end of a year', '2027-12-31T23:59:59Z', '20271231235959Z'],
  ['the beginning of one', '2028-01-01T00:00:00Z', '20280101000000Z'],
  ['a century without a leap day', '2100-02-28T12:34:56Z', '21000228123456Z'],
  ['the day after that', '2100-03-01T01:02:03Z', '21000301010203Z'],
])('a trust line ends on %s when the grant does, and sshd reads it', async (_what, notAfter, stamp) => {
  const person = await makePerson(host)
  const login = `t${stamp.toLowerCase()}`
  const wanted = person.request({ id: login, login }, 'present')
  wanted.grant.notAfter = notAfter
  await ensurePresent(person.link, runContext(), wanted)
  const { stdout } = await host.exec(`cat /etc/ssh/apono-connector/${login}`)
  expect(stdout).toContain(`principals="${login}",expiry-time="${stamp}" `)
  const certificatePath = `${person.key.privateKeyPath}-cert.pub`
  await writeFile(certificatePath, `${wanted.certificate}\n`)
  expect((await person.login(certificatePath, 'true', login)).code).toBe(0)
})
