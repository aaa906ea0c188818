import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import { cleanup, uninstall } from '../../src/host/host-program.ts'
import { Policy } from '../../src/protocol/integration.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson, type Person, runContext } from './person.ts'
import { change } from './servers.ts'

/** A tool that the kernel killed says nothing, and nothing that can't be taken back is concluded from that. */
let host: TestHost
let person: Person
beforeAll(async () => {
  host = await startHost()
  person = await makePerson(host)
})
afterAll(() => host?.stop())

const replaced = new Set<string>()
/** Puts a script in a tool's place, which goes on as the tool; `DIE` is a death by the kernel's hand. */
const wrap = async (tool: string, script: string) => {
  replaced.add(tool)
  await change(
    host,
    `mv ${tool} ${tool}.real
    cat >${tool} <<'END'\n#!/bin/sh\n${script.replaceAll('DIE', () => 'kill -KILL $$')}\nexec ${tool}.real "$@"\nEND
    chmod 755 ${tool}`,
  )
}
afterEach(async () => {
  for (const tool of replaced) await change(host, `mv ${tool}.real ${tool}`)
  replaced.clear()
})

it('a ledger that could not be read is not one without grants', async () => {
  const grant = { id: 'grt_1', login: 'hal' }
  const { certificatePath } = await person.present(grant)
  await wrap('/usr/bin/awk', `case $* in *'state != "absent"'*) DIE ;; esac`)
  const clean = cleanup(person.link, runContext(), { login: 'hal', policy: Policy.parse({ homes: 'delete' }) })
  await expect(clean).rejects.toMatchObject({ code: 'host_busy' })
  const leave = uninstall(person.link, runContext(), { keepUids: false, homes: 'delete' })
  await expect(leave).rejects.toMatchObject({ code: 'host_busy' })
  expect((await host.exec('sh /var/lib/apono-connector/program && cat /etc/cron.d/apono-connector')).stdout).toContain(
    '/var/lib/apono-connector/program',
  )
  expect((await person.login(certificatePath, 'echo in', 'hal')).stdout).toBe('in\n')
})
