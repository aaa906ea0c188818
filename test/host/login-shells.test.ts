import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { keygen } from '../hosts/openssh.ts'
import { makePerson } from './person.ts'

/** The connection user's login shell reads the command that starts us: some know no `&&`, some allow no redirection. */
const shells = ['bash', 'dash', 'zsh', 'fish', 'tcsh', 'rbash', 'mksh'] as const

let host: TestHost
beforeAll(async () => {
  const connectorKey = await keygen()
  host = await startHost({
    kind: 'mksh',
    connectorKey,
    setup: shells
      .map((shell) => {
        const home = `/home/by-${shell}`
        return `
          useradd -m -p '*' -s "$(command -v ${shell})" by-${shell}
          install -d -m 700 -o by-${shell} ${home}/.ssh
          echo '${connectorKey.publicKey}' >${home}/.ssh/authorized_keys
          echo 'by-${shell} ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/by-${shell}
          chmod 440 /etc/sudoers.d/by-${shell}`
      })
      .join('\n'),
  })
})
afterAll(() => host?.stop())

describe('a connection user whose login shell is', () => {
  it.each(shells)('%s gives and ends access', async (shell) => {
    expect((await host.passwd(`by-${shell}`))?.shell).toMatch(new RegExp(`/${shell}$`))
    const person = await makePerson({ ...host, user: `by-${shell}` })
    const grant = { id: `grt_${shell}`, login: `for-${shell}`, groups: ['dbadmins'] }
    await person.present(grant)
    expect(await host.groupsOf(grant.login)).toContain('dbadmins')
    expect(await person.absent(grant)).toMatchObject({ account: 'locked', groupsRemoved: ['dbadmins'] })
    expect(await host.shadow(grant.login)).toMatchObject({ expires: '1', locked: true })
  })
})
