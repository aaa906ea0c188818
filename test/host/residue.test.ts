import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson, type Person } from './person.ts'
import { until } from './world.ts'

/** What the end of a grant finds and names, because it could serve somebody later: programs that lend rights, units, keys. */
let host: TestHost
let person: Person
beforeAll(async () => {
  host = await startHost({
    setup: `printf '%%dbadmins ALL=(ALL) NOPASSWD:ALL\\n' >/etc/sudoers.d/dbadmins; chmod 440 /etc/sudoers.d/dbadmins`,
  })
})
afterAll(() => host?.stop())

let serial = 0
let login = ''
let id = ''
beforeEach(async () => {
  login = `res${++serial}`
  id = `grt_q${serial}`
  person = await makePerson(host)
})

const details = (result: { residue: readonly { kind: string; detail: string }[] }, kind: string): string[] =>
  result.residue.filter((one) => one.kind === kind).map(({ detail }) => detail)

describe('the end of a grant names', () => {
  it('programs that lend the person’s rights or groups, wherever they lie, and whatever they are called', async () => {
    const { certificatePath } = await person.present({ id, login, groups: ['developers'] })
    const script = `cp /bin/bash lend; chmod 4755 lend; cp /bin/bash /var/tmp/${login}-group; chgrp developers /var/tmp/${login}-group
      chmod 2755 /var/tmp/${login}-group; d=$(printf 'two\\n_'); d=\${d%_}; mkdir -p "$d/etc"; cp lend "$d/etc/passwd"; chmod 4711 "$d/etc/passwd"; mkdir shut; cp lend shut/in; chmod 4711 shut/in; chmod 0 shut; cp lend gone; chmod 4755 gone; rm gone`
    expect(await person.login(certificatePath, script, login)).toMatchObject({ code: 0 })
    const found = details(await person.absent({ id, login, groups: ['developers'] }), 'setuid_file')
    const home = `/home/${login}`
    expect(found.sort()).toEqual(
      [`${home}/lend`, `${home}/two?/etc/passwd`, `${home}/shut/in`, `/var/tmp/${login}-group`].sort(),
    )
  })

  it('a program that lends root’s rights, made by a person who was root', async () => {
    const groups = ['dbadmins']
    const { certificatePath } = await person.present({ id, login, groups })
    const script = `sudo sh -c 'cp /bin/bash /usr/local/bin/${login}; chmod 4755 /usr/local/bin/${login}'`
    expect(await person.login(certificatePath, script, login)).toMatchObject({ code: 0 })
    const result = await person.absent({ id, login, groups })
    expect(result.assurance).toBe('root_was_possible')
    expect(details(result, 'setuid_file')).toContain(`/usr/local/bin/${login}`)
    await host.exec(`rm /usr/local/bin/${login}`)
  })

  it('a program that lends a group that was taken, while another grant lives', async () => {
    const { certificatePath } = await person.present({ id, login, groups: ['developers'] })
    await person.present({ id: `${id}b`, login })
    const script = `cp /bin/bash lend; chgrp developers lend; chmod 2755 lend`
    expect(await person.login(certificatePath, script, login)).toMatchObject({ code: 0 })
    const result = await person.absent({ id, login, groups: ['developers'] })
    expect(result).toMatchObject({ account: 'kept', groupsRemoved: ['developers'] })
    expect(details(result, 'setuid_file')).toEqual([`/home/${login}/lend`])
  })

  it('units of their own, and nothing where there is nothing', async () => {
    const { certificatePath } = await person.present({ id, login })
    const script =
      'mkdir -p .config/systemd/user; printf "[Service]\\nExecStart=/bin/true\\n" >.config/systemd/user/x.service'
    expect(await person.login(certificatePath, script, login)).toMatchObject({ code: 0 })
    expect(details(await person.absent({ id, login }), 'user_unit')).toHaveLength(1)

    const clean = { id: `${id}b`, login: `${login}b` }
    const { certificatePath: other } = await person.present(clean)
    await person.login(other, 'cp /bin/bash mine; mkdir .ssh; touch .ssh/authorized_keys', clean.login)
    // An admin installs something meanwhile: who was not root did not.
    await host.exec('cp /bin/bash /usr/local/bin/installed; chmod 4755 /usr/local/bin/installed')
    expect((await person.absent(clean)).residue).toEqual([])
    await host.exec('rm /usr/local/bin/installed')
  })

  it('where its search was cut off, because there was too much to look at', async () => {
    const { certificatePath, reply } = await person.present({ id, login })
    // A disk that is slow: every look at a folder takes a while.
    await host.exec(`mv /usr/bin/find /usr/bin/find.real
printf '#!/bin/sh\\ncase "$*" in *-perm*) exec sleep 60 ;; esac\\nexec /usr/bin/find.real "$@"\\n' >/usr/bin/find; chmod 755 /usr/bin/find`)
    try {
      await person.login(certificatePath, 'true', login)
      const started = Date.now()
      const result = await person.absent({ id, login })
      expect(details(result, 'setuid_file')).toEqual(['the search was cut off after 5 s'])
      expect(Date.now() - started).toBeLessThan(20_000)
      await until(host, `! pgrep -u ${reply.uid}`)
    } finally {
      await host.exec('mv /usr/bin/find.real /usr/bin/find')
    }
  })
})
