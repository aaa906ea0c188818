/**
 * What must be true of a server when a grant has ended, whatever the person did meanwhile. Everything is read from the
 * server itself, or tried by the OpenSSH client.
 */
import { readFileSync } from 'node:fs'
import { expect } from 'vitest'
import type { TestHost } from '../hosts/hosts.ts'
import type { Person } from './person.ts'

/** What accounts and grants change as they come and go; anything else in /etc is nobody's to touch. */
const EXPECTED = [
  /^\/etc\/(?:passwd|shadow|group|gshadow|subuid|subgid)-?$/,
  /^\/etc\/\.pwd\.lock$/,
  /^\/etc\/ssh\/apono-connector\//,
  /^\/etc\/ssh\/sshd_config\.d\/00-apono-connector\.conf$/,
  /^\/etc\/cron\.d\/apono-connector$/,
  /^\/etc\/systemd\/system\/(?:timers\.target\.wants\/)?apono-connector-expiry\.(?:timer|service)$/,
]

/** Every file and link of root's that an attack could be led to: name, owner, mode and content. */
export const rootFiles = async (host: TestHost): Promise<string[]> => {
  const { stdout } = await host.exec(
    `cd /; set -- /etc /root /srv /usr/local; find "$@" ! -type d -printf '%p is %U:%G %m %l\\n'
      find "$@" -type f -print0 | xargs -0 sha256sum | sed 's/\\([^ ]*\\)  \\(.*\\)/\\2 has \\1/'`,
  )
  const nameOf = (line: string) => line.replace(/ (?:is|has) [^/]*(?:\/.*)?$/, '')
  return stdout.split('\n').filter((line) => !EXPECTED.some((pattern) => pattern.test(nameOf(line))))
}

/** No process, by any of the four uids or by who logged in; and none that is too quick for such a list. */
export const expectNobody = async (host: TestHost, uid: number): Promise<void> => {
  expect(await host.processesOf(uid)).toEqual([])
  // Whoever forks and ends faster than that list is made shows in the numbers that the kernel gives out.
  const { stdout } = await host.exec(
    `i=0; while [ $i -lt 400 ]; do i=$((i + 1)); read -r _ _ _ _ last </proc/loadavg; owner=''
      read -r owner <"/proc/$last/loginuid"; [ "$owner" != ${uid} ] || echo seen; done 2>/dev/null; true`,
  )
  expect(stdout).toBe('')
}

/** The program's functions, for what only a look into them can show. */
export const PROGRAM = readFileSync(new URL('../../src/host/program.sh', import.meta.url), 'utf8')

export interface Leaver {
  readonly person: Person
  readonly login: string
  readonly uid: number
  readonly certificatePath: string
}

/** Neither by the certificate nor by a key of their own; and nothing on the server that would begin again. */
export const expectNoWayIn = async (host: TestHost, { person, login, certificatePath }: Leaver): Promise<void> => {
  const [byCertificate, byKey, shadow, begins] = await Promise.all([
    person.login(certificatePath, 'true', login),
    person.login(undefined, 'true', login),
    host.shadow(login),
    host.exec(`ls /etc/ssh/apono-connector/${login} /var/spool/cron/crontabs/${login}; atq | grep -w ${login}`),
  ])
  expect({ byCertificate: byCertificate.code, byKey: byKey.code }).toEqual({ byCertificate: 255, byKey: 255 })
  expect(shadow).toMatchObject({ locked: true, expires: '1' })
  expect(begins.stdout).toBe('')
}

export const expectGone = async (host: TestHost, leaver: Leaver): Promise<void> => {
  await expectNobody(host, leaver.uid)
  await expectNoWayIn(host, leaver)
}

/** Waits until a condition of the server's, in sh, is true. */
export const until = (host: TestHost, condition: string, timeout = 10_000): Promise<void> =>
  expect.poll(async () => (await host.exec(condition)).code, { timeout, interval: 50 }).toBe(0)
