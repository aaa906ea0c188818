import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson, type Person } from './person.ts'

/** OpenSSH 8.4 of Debian 11, which reads no time in UTC in a trust line. */
let host: TestHost
let person: Person
beforeAll(async () => {
  // Without cron, nothing on the server acts at the end of a grant but sshd.
  host = await startHost({ kind: 'debian11', setup: 'pkill -x cron' })
  person = await makePerson(host)
})
afterAll(() => host?.stop())

const FILE = '/etc/ssh/apono-connector/dana'

describe('sshd before 9.1', () => {
  it('refuses a line with a time in UTC, so ours has none', async () => {
    const { certificatePath } = await person.present({ id: 'grt_z', login: 'dana' })
    expect((await person.login(certificatePath, 'true')).code).toBe(0)
    const { stdout: line } = await host.exec(['cat', FILE])
    expect(line).toMatch(/^cert-authority,restrict,pty,principals="grt_z" ssh-ed25519 \S+ apono:\S+\n$/)

    await host.exec(`sed -i 's/principals="grt_z"/&,expiry-time="20990101000000Z"/' ${FILE}`)
    expect((await person.login(certificatePath, 'true')).code).toBe(255)
    await host.exec(['tee', FILE], { input: line })
    expect((await person.login(certificatePath, 'true')).code).toBe(0)
  })

  it('still lets nobody in when the grant is over: the certificate ends by itself', async () => {
    const { certificatePath, request } = await person.present({ id: 'grt_short', login: 'olga', seconds: 5 })
    expect((await person.login(certificatePath, 'true', 'olga')).code).toBe(0)
    await expect.poll(() => Date.now(), { timeout: 10_000 }).toBeGreaterThan(Date.parse(request.grant.notAfter) + 1000)
    expect((await person.login(certificatePath, 'true', 'olga')).code).toBe(255)
    expect(await host.log()).toContain('Certificate invalid: expired')
  })
})
