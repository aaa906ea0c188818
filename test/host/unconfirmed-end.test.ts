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
