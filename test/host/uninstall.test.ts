import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { uninstall } from '../../src/host/host-program.ts'
import { runCommand } from '../hosts/command.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { makePerson, runContext } from './person.ts'

/**
 * What is exempt from "as if we had never been there": copies that the account tools keep of the files they change, and
 * what a login leaves in the system's own records.
 */
const EXEMPT = [
  '/etc/passwd-',
  '/etc/group-',
  '/etc/shadow-',
  '/etc/gshadow-',
  '/etc/subuid-',
  '/etc/subgid-',
  '/etc/.pwd.lock',
  '/var/log', // wtmp, lastlog, faillog, journal
  '/var/lib/systemd/random-seed',
  '/var/lib/private/systemd',
  '/var/lib/systemd/timesync',
]

/** Every file with its owner, mode, kind, link target and content; of folders everything but their times. */
const snapshot = async (host: TestHost): Promise<string[]> => {
  const prune = EXEMPT.map((path) => `-path ${path}`).join(' -o ')
  const { code, stdout, stderr } = await host.exec(
    `find /etc /var /home \\( ${prune} \\) -prune -o -printf '%p %y %U %G %m %l ' \\( -type f -exec sha256sum {} \\; -o -printf '\\n' \\) | sort`,
    { timeoutMs: 60_000 },
  )
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return stdout.split('\n')
}

const difference = (before: readonly string[], after: readonly string[]) => ({
  gone: before.filter((line) => !after.includes(line)),
  new: after.filter((line) => !before.includes(line)),
})

const cli = join(import.meta.dirname, '..', '..', 'src', 'cli.ts')

const request = { keepUids: false, homes: 'delete' } as const

describe.each([
  ['debian', 100],
  ['systemd', 10],
] as const)('uninstall on %s', (kind, grants) => {
  it(`leaves the server as if we had never been there, after ${grants} grants`, async () => {
    const host = await startHost({ kind })
    try {
      const before = await snapshot(host)
      const person = await makePerson(host, join(scratchDirectory(), `uninstall-${kind}`))
      for (let n = 0; n < grants; n++) {
        const login = `dana${n % 25}`
        const trust = n % 5 === 0 ? 'home' : 'root_file'
        const grant = { id: `grt_${n}`, login, groups: ['dbadmins'], policy: { trust } as const }
        const { certificatePath } = await person.present(grant)
        if (n % 20 === 0)
          await person.login(
            certificatePath,
            'echo note >note; mkdir -p .ssh; (crontab -l; echo "@daily true") | crontab -',
            login,
          )
        if (n === grants - 1)
          await expect(uninstall(person.link, runContext(), request)).rejects.toMatchObject({ code: 'grants_live' })
        await person.absent(grant)
      }
      expect(difference(before, await snapshot(host)).new.length).toBeGreaterThan(grants)
      await uninstall(person.link, runContext(), request)
      expect(difference(before, await snapshot(host))).toEqual({ gone: [], new: [] })
      // Again, and on a server that never saw us: nothing to do.
      await uninstall(person.link, runContext(), request)
      expect(difference(before, await snapshot(host))).toEqual({ gone: [], new: [] })
    } finally {
      await host.stop()
    }
  }, 240_000)
})

describe('apono-connector uninstall', () => {
  const command = (args: readonly string[], env: NodeJS.ProcessEnv = {}) =>
    runCommand(process.execPath, [cli, 'uninstall', ...args], { env: { ...process.env, ...env } })

  it('takes everything off the server that a file names, and refuses while a grant lives', async () => {
    const host = await startHost()
    try {
      const person = await makePerson(host)
      await person.present()
      const folder = scratchDirectory()
      writeFileSync(join(folder, 'key.json'), JSON.stringify({ base64_private_key: btoa(host.connectorKey) }), {
        mode: 0o600,
      })
      const file = join(folder, 'server.json')
      const server = { name: 'db-1', host: host.address, port: host.port, hostKeys: host.hostKeys }
      writeFileSync(file, JSON.stringify({ server, secretStore: { type: 'file', path: join(folder, 'key.json') } }))
      const env = { APONO_SECRET_DIR: folder }

      const known = join(folder, 'known_hosts')
      const withKnown = { ...env, APONO_KNOWN_HOSTS_FILE: known }
      writeFileSync(known, host.hostKeys.map((key) => `@revoked * ${key}\n`).join(''))
      const revoked = await command(['--server-file', file], withKnown)
      expect(revoked.code).toBe(1)
      expect(revoked.stderr).toMatch(/^apono-connector: host_key_revoked: .*SHA256:/)
      writeFileSync(known, 'what is this\n')
      const odd = await command(['--server-file', file], withKnown)
      expect(odd.code).toBe(78)
      expect(odd.stderr).toContain('APONO_KNOWN_HOSTS_FILE: line 1: ')

      const refused = await command(['--server-file', file], env)
      expect(refused.code).toBe(1)
      expect(refused.stderr).toMatch(/^apono-connector: grants_live: .*grt_1/)
      expect(await host.passwd('dana')).toBeDefined()

      await person.absent()
      const done = await command(['--server-file', file], env)
      expect(done).toEqual({ code: 0, stdout: `db-1 (127.0.0.1:${host.port}): nothing of ours is left\n`, stderr: '' })
      expect(await host.passwd('dana')).toBeUndefined()
      expect((await host.exec('ls -d /var/lib/apono-connector /home/dana /etc/ssh/apono-connector')).stdout).toBe('')
    } finally {
      await host.stop()
    }
  })

  it('names every problem of the file, and what was misspelt', async () => {
    const file = join(scratchDirectory(), 'odd.json')
    writeFileSync(file, JSON.stringify({ server: { port: 99999, jumps: [] }, secretStore: { type: 'paper' } }))
    const odd = await command(['--server-file', file])
    expect(odd.code).toBe(78)
    for (const path of ['server.host', 'server.port', 'server', 'secretStore.type'])
      expect(odd.stderr).toContain(`${path}: `)
    expect((await command(['--server-file', '/nowhere.json'])).stderr).toContain(
      '/nowhere.json: cannot be read (ENOENT)',
    )
    expect((await command([])).code).toBe(64)
    expect((await command(['--server', 'x'])).code).toBe(64)
  })
})

describe('uninstall', () => {
  it('keeps the uids that were given out where it is told to, and the homes', async () => {
    const host = await startHost()
    try {
      const person = await makePerson(host)
      const { reply, certificatePath } = await person.present()
      await person.login(certificatePath, 'echo mine >note')
      await person.absent()
      await uninstall(person.link, runContext(), { keepUids: true, homes: 'archive' })
      expect((await host.exec('cd /var/lib/apono-connector && ls; cat uids')).stdout).toBe(`uids\n${reply.uid}\n`)
      expect((await host.exec(`cat /home/.apono-connector/dana.${reply.uid}/note`)).stdout).toBe('mine\n')
      const again = await person.present({ id: 'grt_2' })
      expect(again.reply.uid).not.toBe(reply.uid)
    } finally {
      await host.stop()
    }
  })

  it('ends what is over, and nothing that is not', async () => {
    const host = await startHost({ setup: 'pid=$(cat /run/crond.pid) && kill "$pid"' })
    try {
      const person = await makePerson(host)
      const { certificatePath } = await person.present({ seconds: 12 })
      const session = person.stay(certificatePath)
      await session.ready
      await expect(uninstall(person.link, runContext(), request)).rejects.toMatchObject({ code: 'grants_live' })
      await expect
        .poll(async () => (await person.login(certificatePath, 'true')).code, { timeout: 20_000, interval: 500 })
        .toBe(255)
      await uninstall(person.link, runContext(), request)
      expect(await session.closed).toBe(255)
      expect(await host.passwd('dana')).toBeUndefined()
    } finally {
      await host.stop()
    }
  })
})
