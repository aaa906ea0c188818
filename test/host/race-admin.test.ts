import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { type Connectors, connect } from './connectors.ts'

/** An admin, or their tools, who change accounts and groups while connectors do. */
let host: TestHost
let of: Connectors
beforeAll(async () => {
  host = await startHost()
  of = await connect(host)
})
afterAll(() => host?.stop())

let serial = 0
let login = ''
let id = ''
beforeEach(() => {
  login = `rob${++serial}`
  id = `grt_z${serial}`
})

const lines = async (command: string): Promise<string[]> =>
  (await host.exec(command)).stdout.split('\n').filter((line) => line !== '')

describe('an admin who changes accounts meanwhile', { timeout: 60_000 }, () => {
  /** Until /run/stop is there; says each thing that their own tool called done. */
  const admin = (body: string) =>
    host.exec(`n=0; while [ ! -e /run/stop ]; do n=$((n + 1)); ${body}; done`, { timeoutMs: 120_000 })

  it('loses nothing to us, nor we to them', async () => {
    await host.exec('rm -f /run/stop; groupadd ops')
    const admins = [
      admin('useradd -M adm$n && usermod -aG dbadmins,ops adm$n && echo adm$n'),
      admin('groupadd grp$n && usermod -aG grp$n nobody && echo grp$n; [ $n -lt 9 ] || groupdel grp$((n - 8))'),
    ]
    const nth = (n: number) => ({ id: `${id}_${n}`, login: `${login}_${n}`, groups: ['dbadmins', 'ops'] })
    const six = [0, 1, 2, 3, 4, 5]
    await Promise.all(six.map((n) => of.grant(n, nth(n))))
    await Promise.all(six.filter((n) => n % 2).map((n) => of.end(n, nth(n))))
    await host.exec('touch /run/stop')
    const [users = ''] = (await Promise.all(admins)).map(({ stdout }) => stdout)

    for (const name of ['dbadmins', 'ops']) {
      const members = (await host.getent('group', name))?.at(-1)?.split(',') ?? []
      const ours = six.map((n) => members.includes(`${login}_${n}`))
      expect({ name, ours }).toEqual({ name, ours: six.map((n) => n % 2 === 0) })
      expect(members).toEqual(expect.arrayContaining(users.trim().split('\n')))
    }
    expect((await host.exec('pwck -r -q; grpck -r')).stdout).not.toMatch(/duplicate|invalid/)
  })

  it('with gpasswd, which writes what it read before it had the lock: what we call done is done', async () => {
    await host.exec('rm -f /run/stop; useradd -M gus')
    const loops = [0, 1].map(() => admin('gpasswd -a gus deploy; sleep 0.1; gpasswd -d gus deploy'))
    const nth = (n: number) => ({ id: `${id}_${n}`, login: `${login}_${n}`, groups: ['deploy'] })
    const six = [0, 1, 2, 3, 4, 5]
    await Promise.all(six.map((n) => of.grant(n, nth(n))))
    await Promise.all(six.filter((n) => n % 2).map((n) => of.end(n, nth(n))))
    await host.exec('touch /run/stop')
    await Promise.all(loops)
    const members = (await host.getent('group', 'deploy'))?.at(-1)?.split(',') ?? []
    expect(six.map((n) => members.includes(`${login}_${n}`))).toEqual(six.map((n) => n % 2 === 0))
  })

  it('with a gpasswd that is a moment slower than ours: its old group does not come back', async () => {
    // What gpasswd does (shadow-maint/shadow#347), held still at the worst moment: it has read, and not written.
    const slow = (ours: string) => `cat >/usr/local/bin/gpasswd <<'END'
#!/bin/sh
old=$(grep ^deploy: /etc/group)
: >/run/has-read
n=0; until [ $n -gt 200 ] || { grep ^deploy: /etc/group | ${ours}; }; do n=$((n + 1)); sleep 0.05; done
sleep 0.3
sed -i "s/^deploy:.*/$old/" /etc/group
END
chmod 755 /usr/local/bin/gpasswd; rm -f /run/has-read; setsid -f /usr/local/bin/gpasswd >/dev/null 2>&1 </dev/null
until [ -e /run/has-read ]; do sleep 0.02; done`
    const isMember = async () => (await host.groupsOf(login)).includes('deploy')
    const gone = async () => expect.poll(async () => (await host.exec('pgrep -x gpasswd')).code).toBe(1)
    await host.exec(slow(`grep -q ${login}`))
    await of.grant(0, { id, login, groups: ['deploy'] })
    await gone()
    expect(await isMember()).toBe(true)
    await host.exec(slow(`grep -qv ${login}`))
    expect(await of.end(0, { id, login, groups: ['deploy'] })).toMatchObject({ groupsRemoved: ['deploy'] })
    await gone()
    expect(await isMember()).toBe(false)
    await host.exec('rm /usr/local/bin/gpasswd')
  })

  it('whose useradd takes the number that we picked is left alone, and we take the next', async () => {
    await host.exec(`mv /usr/sbin/useradd /usr/sbin/useradd.real; cat >/usr/sbin/useradd <<'END'
#!/bin/sh
# Somebody who is a moment faster, once.
case "$*" in *apono-connector*)
  [ -e /run/faster ] || { : >/run/faster; while [ $# -gt 1 ] && [ "$1" != -u ]; do set -- "$@" "$1"; shift; done; /usr/sbin/useradd.real -M -u "$2" faster; exit 4; } ;;
esac
exec /usr/sbin/useradd.real "$@"
END
chmod 755 /usr/sbin/useradd`)
    try {
      const { reply } = await of.person.present({ id, login })
      const faster = await host.passwd('faster')
      expect(faster).toBeDefined()
      expect(reply.uid).not.toBe(faster?.uid)
      const theirs = await host.shadow('faster')
      expect(await of.end(0, { id, login })).toMatchObject({ account: 'locked' })
      expect(await host.shadow('faster')).toEqual(theirs)
    } finally {
      await host.exec('mv /usr/sbin/useradd.real /usr/sbin/useradd')
    }
  })

  it('who gives a deleted login’s number to somebody new: that one is left alone, and the end is not confirmed', async () => {
    const { reply } = await of.person.present({ id, login })
    await host.exec(`userdel -r ${login}; useradd -m -u ${reply.uid} newcomer${serial}`)
    await host.exec(`setsid -f setpriv --reuid ${reply.uid} --clear-groups sleep 60 >/dev/null 2>&1 </dev/null`)
    const theirs = await host.shadow(`newcomer${serial}`)
    await expect(of.end(0, { id, login })).rejects.toMatchObject({
      code: 'revoke_incomplete',
      message: expect.stringContaining(`newcomer${serial}`),
    })
    expect(await host.shadow(`newcomer${serial}`)).toEqual(theirs)
    expect((await host.processesOf(reply.uid)).map(({ command }) => command)).toEqual(['sleep 60'])
    expect(await lines(`ls /etc/ssh/apono-connector/${login}`)).toEqual([])
  })
})
