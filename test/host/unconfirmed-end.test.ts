import { afterAll, beforeAll, expect, it } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson, type Person } from './person.ts'

/** Ends that can't be told to be whole are not called confirmed. */
let host: TestHost
let person: Person
beforeAll(async () => {
  host = await startHost()
  person = await makePerson(host)
})
afterAll(() => host?.stop())

it('a login that got another uid is not called ended while something runs with that', async () => {
  const grant = { id: 'grt_moved', login: 'moved' }
  const { certificatePath } = await person.present(grant)
  await host.exec('usermod -u 4343 moved')
  await person.login(certificatePath, 'setsid nohup sleep 900 >/dev/null 2>&1 </dev/null &', 'moved')
  expect(await host.processesOf(4343)).toHaveLength(1)
  await expect(person.absent(grant)).rejects.toMatchObject({ code: 'revoke_incomplete' })
  expect(await host.shadow('moved')).toMatchObject({ expires: '1' })
  await host.exec('pkill -u 4343')
  expect(await person.absent(grant)).toMatchObject({ account: 'locked', processesLeft: 0 })
})

it('a login that was taken out of the ledger while its end was under way is not called ended', async () => {
  const grant = { id: 'grt_lost', login: 'lost', groups: ['dbadmins'] }
  const { reply } = await person.present(grant)
  const ledger = '/var/lib/apono-connector'
  await host.exec(`sed -i 's/^state=.*/state=ending/' ${ledger}/grants/*.grt_lost; rm ${ledger}/logins/lost
    setpriv --reuid ${reply.uid} --clear-groups sleep 900 >/dev/null 2>&1 </dev/null &`)
  await expect(person.absent(grant)).rejects.toMatchObject({ code: 'revoke_incomplete' })
  expect(await host.shadow('lost')).toMatchObject({ expires: '1' })
  expect((await host.exec('ls /etc/ssh/apono-connector/lost')).stdout).toBe('')
})
