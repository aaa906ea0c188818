import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import { cleanup, ensurePresent, uninstall } from '../../src/host/host-program.ts'
import { Policy } from '../../src/protocol/integration.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson, type Person, runContext } from './person.ts'
import { change } from './servers.ts'
import { PROGRAM } from './world.ts'

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
    `cat >${tool}.new <<'END'\n#!/bin/sh\n${script.replaceAll('DIE', () => 'kill -KILL $$')}\nexec ${tool}.real "$@"\nEND
    chmod 755 ${tool}.new; mv ${tool} ${tool}.real; mv ${tool}.new ${tool}`,
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

it('a crontab of root’s that could not be read is not an empty one', async () => {
  const line = '* * * * * /bin/sh /var/lib/apono-connector/program >/dev/null 2>&1'
  await change(host, `printf '%s\n' '@daily backup' '${line}' | crontab -; rm -f /tmp/asked`)
  // Answers once.
  await wrap('/usr/bin/crontab', 'if [ "$1" = -l ]; then [ ! -e /tmp/asked ] || DIE; : >/tmp/asked; fi')
  const call = (name: string) =>
    host.exec('sh -s', { input: `${PROGRAM}\nNONCE=x; settle_shell; places; exec 2>/dev/null; ${name}\n` })
  await call('remove_timer')
  await call('schedule_busybox')
  expect((await host.exec('crontab.real -l')).stdout).toBe(`@daily backup\n${line}\n`)
  await host.exec('rm /tmp/asked; printf "#!/bin/sh\\nexec crontab.real \\"\\$@\\"\\n" >/usr/bin/crontab')
  await call('schedule_busybox')
  expect((await host.exec('crontab.real -l')).stdout).toBe(`@daily backup\n${line}\n`)
  await call('remove_timer')
  expect((await host.exec('crontab.real -l')).stdout).toBe('@daily backup\n')
})

it('half a program is not written down for the timer', async () => {
  await host.exec('sh /var/lib/apono-connector/program; rm -f /var/lib/apono-connector/program /tmp/cats')
  // The first is the program itself, the second what is written down.
  await wrap('/usr/bin/cat', 'echo >>/tmp/cats; [ "$(wc -l </tmp/cats)" != 2 ] || { head -c 3000; DIE; }')
  const { reply } = await person.present({ id: 'grt_2', login: 'kay' })
  expect(reply.onHostExpiry).toBe('logins')
  const next = await person.present({ id: 'grt_2', login: 'kay' })
  expect(next.reply.onHostExpiry).toBe('full')
  expect(
    (await host.exec('sh -n /var/lib/apono-connector/program; tail -n 1 /var/lib/apono-connector/program')).stdout,
  ).toBe('apono_expire\n')
})

it('a timer that wakes up before the grant is there, and removes itself, is put back', async () => {
  await change(host, 'rm -f /var/lib/apono-connector/timer')
  let woken = 0
  const exec: typeof person.link.exec = async (command, input, options) => {
    const outcome = await person.link.exec(command, input, options)
    if (!/^op=install$/m.test(input) || ++woken > 1) return outcome
    // Nothing else is live: the records of the other tests' grants are out of the way.
    await host.exec(
      `cd /var/lib/apono-connector; mv grants aside; mkdir -m 700 grants; sh program; rmdir grants; mv aside grants`,
    )
    expect((await host.exec('ls /etc/cron.d/apono-connector')).code).not.toBe(0)
    return outcome
  }
  const wanted = person.request({ id: 'grt_race', login: 'kay' }, 'present')
  const reply = await ensurePresent({ ...person.link, exec }, runContext(), wanted)
  expect({ woken, expiry: reply.onHostExpiry }).toEqual({ woken: 2, expiry: 'full' })
  expect((await host.exec('ls /etc/cron.d/apono-connector')).code).toBe(0)
})

it('a process that anybody calls cron is no cron', async () => {
  await change(
    host,
    'pkill -x cron; useradd ivan; cp /bin/sleep /tmp/cron; ln -s /usr/bin/sleep /tmp/crond; rm -f /etc/cron.d/apono-connector',
  )
  for (const name of ['cron', 'crond'])
    await host.exec(`setpriv --reuid ivan --regid ivan --clear-groups /tmp/${name} 900 >/dev/null 2>&1 </dev/null &`)
  expect((await person.present({ id: 'grt_3', login: 'ida' })).reply.onHostExpiry).toBe('logins')
  await change(host, 'pkill -u ivan; /usr/sbin/cron')
  expect((await person.present({ id: 'grt_4', login: 'ida' })).reply.onHostExpiry).toBe('full')
})
