import { afterAll, beforeAll, expect, it } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { sshLogin } from '../hosts/openssh.ts'
import { makePerson } from './person.ts'

/** sudo-rs hands its own umask on, which lets the group write. */
let host: TestHost
beforeAll(async () => {
  host = await startHost({ kind: 'sudo-rs' })
})
afterAll(() => host?.stop())

it('leaves nothing that anybody but root could write', async () => {
  const umask = await sshLogin({
    host,
    user: host.user,
    privateKeyPath: host.connectorKeyPath,
    command: 'env LC_ALL=C sudo -n -- /bin/sh -c umask',
  })
  expect(umask.stdout).toBe('0002\n')

  await host.exec('touch /tmp/before')
  const person = await makePerson(host)
  await person.present({ id: 'grt_1', login: 'dana', groups: ['dbadmins'] })
  await person.present({ id: 'grt_2', login: 'olga', policy: { trust: 'home' } })
  await person.absent({ id: 'grt_1', login: 'dana', groups: ['dbadmins'] })

  const ours = await host.exec(
    'find /etc /var /run /home ! -type l -newer /tmp/before ! -path "/var/log/*" -printf "%m %p\\n"',
  )
  const modes = ours.stdout.trim().split('\n')
  expect(modes).toEqual(
    expect.arrayContaining([
      '600 /var/lib/apono-connector/ledger',
      '644 /etc/ssh/sshd_config.d/00-apono-connector.conf',
      '700 /home/olga/.ssh',
    ]),
  )
  expect(modes.filter((line) => /^\d?\d[2367]\d |^\d?\d\d[2367] /.test(line))).toEqual([])
})
