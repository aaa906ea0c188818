import { expect, it } from 'vitest'
import { uninstall } from '../../src/host/host-program.ts'
import { startHost } from '../hosts/hosts.ts'
import { makePerson, runContext } from './person.ts'
import { change } from './servers.ts'

const leave = { keepUids: false, homes: 'archive' } as const
const grant = { id: 'grt_1', login: 'carl', groups: ['dbadmins'], policy: { existingUser: 'adopt' } } as const

it.each([
  ['by its timer', async () => {}, 'sh /var/lib/apono-connector/program'],
  ['when it is left', uninstall, 'true'],
])('a copied machine takes back what the grant of an adopted login added, %s', async (_what, end, script) => {
  const host = await startHost({ setup: 'useradd -m -s /bin/bash carl && usermod -aG developers carl' })
  try {
    const person = await makePerson(host)
    await person.present(grant)
    await change(host, 'pkill -x cron; echo 11112222333344445555666677778888 >/etc/machine-id')
    await host.exec(script)
    await end(person.link, runContext(), leave)
    const groups = await host.groupsOf('carl')
    expect(groups).toContain('developers')
    expect(groups).not.toContain('dbadmins')
  } finally {
    await host.stop()
  }
})

it('leaves a server on which a run died in the middle of a file', async () => {
  const host = await startHost()
  try {
    const person = await makePerson(host)
    const made = { id: 'grt_1', login: 'eve' }
    await person.present(made)
    await person.absent(made)
    await change(host, 'touch /etc/ssh/apono-connector/.new.eve /etc/ssh/sshd_config.d/.new.00-apono-connector.conf')
    await uninstall(person.link, runContext(), leave)
    expect((await host.exec('find /etc -name ".new.*" -o -name "*apono-connector*"')).stdout).toBe('')
  } finally {
    await host.stop()
  }
})
