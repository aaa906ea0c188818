import { afterAll, beforeAll, expect, it } from 'vitest'
import { cleanup, uninstall } from '../../src/host/host-program.ts'
import { Policy } from '../../src/protocol/integration.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson, type Person, runContext } from './person.ts'
import { change } from './servers.ts'

/** Homes that are not the person's any more, or not all of whose content is: none of it is moved or deleted. */
let host: TestHost
let person: Person
beforeAll(async () => {
  // To mount something.
  const securityOptions = ['seccomp=unconfined', 'apparmor=unconfined']
  host = await startHost({ run: { capabilities: ['SYS_ADMIN'], securityOptions } })
  person = await makePerson(host)
})
afterAll(() => host?.stop())

const wasThere = async (login: string) => {
  await person.present({ id: `grt_${login}`, login })
  await person.absent({ id: `grt_${login}`, login })
}
const clean = (login: string) =>
  cleanup(person.link, runContext(), { login, policy: Policy.parse({ homes: 'delete' }) })

it.each([
  ['whose login an admin made anew', 'userdel -r LOGIN; useradd -m LOGIN'],
  ['whose login an admin made anew, on the old home', 'userdel LOGIN; useradd LOGIN'],
  ['that was given to somebody else', 'userdel LOGIN; useradd heir_LOGIN; chown -R heir_LOGIN /home/LOGIN'],
])('a home %s', async (_what, script) => {
  const login = `eve${script.length}`
  await wasThere(login)
  await change(host, `{ ${script.replaceAll('LOGIN', login)}; } 2>/dev/null; echo precious >/home/${login}/note`)
  expect(await clean(login)).toMatchObject({ account: 'deleted', homeArchive: null })
  expect((await host.exec(`cat /home/${login}/note`)).stdout).toBe('precious\n')
})

it('a home of an account made anew, when we leave', async () => {
  await wasThere('leah')
  await change(host, 'userdel -r leah 2>/dev/null; useradd -m leah; echo precious >/home/leah/note')
  await uninstall(person.link, runContext(), { keepUids: true, homes: 'delete' })
  expect((await host.exec('cat /home/leah/note')).stdout).toBe('precious\n')
})

it('a mount below a home, where /home is a link', async () => {
  await change(host, 'mkdir /srv/home; mv /home/* /srv/home/; rm -rf /home; ln -s /srv/home /home')
  await wasThere('eli')
  await change(
    host,
    'mkdir /srv/shared /home/eli/work; echo precious >/srv/shared/note; mount --bind /srv/shared /home/eli/work',
  )
  await expect(clean('eli')).rejects.toMatchObject({ code: 'cleanup_failed' })
  expect((await host.exec('cat /srv/shared/note')).stdout).toBe('precious\n')
  await change(host, 'umount /home/eli/work')
  expect(await clean('eli')).toMatchObject({ account: 'deleted' })
  expect((await host.exec('cat /srv/shared/note; ls /home')).stdout).not.toContain('eli')
})
