import type { AddressInfo } from 'node:net'
import ssh2 from 'ssh2'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { keysTaken } from '../../src/connector/login-keys.ts'
import type { Pool, UseOptions } from '../../src/ssh/pool.ts'
import type { Hop, Route } from '../../src/ssh/route.ts'
import { runCommand } from '../hosts/command.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { type KeyPair, keygen } from '../hosts/openssh.ts'
import { plainKey } from './plain-key.ts'
import { failure, type HopOptions, hopTo, makePool, routeTo, run } from './workbench.ts'

// A secret that holds the next key beside the current one. What was offered, and in how many connections, is read from
// sshd's own log, which names a refused key at LogLevel VERBOSE.

let current: KeyPair
let next: KeyPair
let host: TestHost
let fresh: TestHost
const pools: Pool[] = []
const servers: ssh2.Server[] = []

/** Who takes what; `once-*` have `MaxAuthTries 1`. A user for each test, so that the log is its own. */
const takes = { current: ['current'], next: ['next'], both: ['current', 'next'], neither: [] } as const
const kinds = Object.keys(takes) as (keyof typeof takes)[]
const users = kinds.flatMap((kind) => [kind, `once-${kind}`, `look-${kind}`, `once-look-${kind}`])

const SETUP = (more: string): string => `
  for user in ${[...users, 'kept', 'asked', 'bastion', 'twice', 'changed', 'once-lost', 'once-swap', 'once-blank'].join(' ')}; do
    useradd -m -p '*' -s /bin/bash $user
    install -d -o $user -g $user -m 700 /home/$user/.ssh
    install -o $user -g $user -m 600 /dev/null /home/$user/.ssh/authorized_keys
    case $user in *current|*both|kept|asked|bastion|twice|once-swap) echo '${current.publicKey}' ;; esac >>/home/$user/.ssh/authorized_keys
    case $user in *next|*both) echo '${next.publicKey}' ;; esac >>/home/$user/.ssh/authorized_keys
  done
  printf '${more}Match User once-*\\n  MaxAuthTries 1\\n' >/etc/ssh/sshd_config.d/50-test.conf
  sshd -t && kill -HUP "$(pgrep -o -x sshd)"; sleep 0.3`

beforeAll(async () => {
  ;[current, next] = await Promise.all([keygen(), keygen()])
  const connectorKey = current
  ;[host, fresh] = await Promise.all([
    startHost({ connectorKey, setup: SETUP('LogLevel VERBOSE\\n') }),
    startHost({ kind: 'debian13', connectorKey, setup: SETUP('') }),
  ])
}, 120_000)
afterAll(async () => {
  await Promise.all(pools.map((pool) => pool.close()))
  for (const server of servers) server.close()
  await host?.stop()
  await fresh?.stop()
})

const pooled = (): Pool => {
  const pool = makePool()
  pools.push(pool)
  return pool
}

const hop = (user: string, options: HopOptions = {}): Hop =>
  hopTo(host, { user, keys: [current.privateKey, next.privateKey], ...options })
const as = (user: string, options: HopOptions = {}): Route => routeTo(hop(user, options))

/** What an inspection learns of the keys. */
const look = async (pool: Pool, route: Route, options: UseOptions = {}) => {
  const logins = new Map<Hop, string>()
  const onLogin = (at: Hop, fingerprint: string) => void logins.set(at, fingerprint)
  await run(pool, route, 'true', { nextFirst: true, onLogin, ...options })
  return keysTaken(route, logins)
}

const named = (text: string): string =>
  text.includes(plainKey(current.privateKey).fingerprint)
    ? 'current'
    : text.includes(plainKey(next.privateKey).fingerprint)
      ? 'next'
      : '?'

/** In order: which key was refused, which accepted, and where sshd ended a login that had failed. */
const story = async (user: string): Promise<string[]> =>
  (await host.log()).split('\n').flatMap((line) => {
    const words = line.split(' ')
    if (!words.includes(user)) return []
    if (/^Failed publickey/.test(line)) return [`refused ${named(line)}`]
    if (/^Accepted publickey/.test(line)) return [`accepted ${named(line)}`]
    return /^(?:Disconnect(?:ed|ing)|Connection (?:closed|reset)).*authenticating user/.test(line) ? ['failed'] : []
  })

/** `expect.poll` is not for tests that run at once. */
const until = async <T>(look: () => Promise<T> | T, isThere: (seen: T) => boolean): Promise<T> => {
  const end = performance.now() + 10_000
  for (;;) {
    const seen = await look()
    if (isThere(seen) || performance.now() > end) return seen
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

const told = async (user: string, ...lines: string[]): Promise<void> => {
  const isThere = (seen: string[]) => seen.length >= lines.length
  expect(await until(() => story(user), isThere)).toEqual(lines)
}

/** So that the next one needs a connection of its own. */
const endConnection = async (pool: Pool, user: string): Promise<void> => {
  await host.exec(`pkill -u ${user}`)
  await until(pool.stats, ({ open }) => open === 0)
}

const NOT_TAKEN = { code: 'next_key_not_taken', severity: 'warning' }

describe.concurrent('a job, with a secret that holds two keys,', () => {
  test.each([
    ['current', ['accepted current'], ['accepted current']],
    ['both', ['accepted current'], ['accepted current']],
    ['next', ['refused current', 'accepted next'], ['accepted next']],
    ['once-current', ['accepted current'], ['accepted current']],
    ['once-next', ['refused current', 'failed', 'accepted next'], ['accepted next']],
  ])('on a server that takes %s: is let in, and the next time at once', async (user, first, second) => {
    const pool = pooled()
    expect((await run(pool, as(user), 'id -un')).stdout).toBe(`${user}\n`)
    await told(user, ...first)
    await endConnection(pool, user)
    expect((await run(pool, as(user), 'id -un')).stdout).toBe(`${user}\n`)
    await told(user, ...first, ...second)
  })

  test.each([
    ['neither', ['refused current', 'refused next', 'failed']],
    ['once-neither', ['refused current', 'failed', 'refused next', 'failed']],
  ])('on a server that takes %s: fails, names both, and neither is offered again', async (user, offers) => {
    const pool = pooled()
    for (let job = 0; job < 3; job++) {
      const error = await failure(run(pool, as(user), 'true'))
      expect(error.code).toBe('ssh_auth_failed')
      for (const pair of [current, next]) expect(error.hint).toContain(plainKey(pair.privateKey).fingerprint)
    }
    await told(user, ...offers)
  })

  test('offers both again when the secret has changed', async () => {
    const pool = pooled()
    const offers = ['refused current', 'refused next', 'failed']
    await failure(run(pool, as('changed'), 'true'))
    await failure(run(pool, as('changed', { version: 'v2' }), 'true'))
    await told('changed', ...offers, ...offers)
  })

  test('where the server has gone over to the next key since, for good: is let in', async () => {
    const pool = pooled()
    await run(pool, as('once-swap'), 'true')
    await host.exec(`echo '${next.publicKey}' >/home/once-swap/.ssh/authorized_keys`)
    await endConnection(pool, 'once-swap')
    await run(pool, as('once-swap'), 'true')
    await told('once-swap', 'accepted current', 'refused current', 'failed', 'accepted next')
  })

  test('one that holds one key, refused by MaxAuthTries 1: the refusal is known as one, and remembered', async () => {
    const pool = pooled()
    for (let job = 0; job < 3; job++) {
      const error = await failure(run(pool, as('once-lost', { keys: [current.privateKey] }), 'true'))
      expect(error).toMatchObject({ code: 'ssh_auth_failed', retryable: false })
    }
    await told('once-lost', 'refused current', 'failed')
  })
})

describe.concurrent('an inspection', () => {
  test('offers the next key first, says that it is not taken, and how to mend that: then it is', async () => {
    const pool = pooled()
    const seen = await look(pool, as('look-current'))
    expect(seen).toMatchObject({ loginKey: 'current', problems: [NOT_TAKEN] })
    await told('look-current', 'refused next', 'accepted current')
    const command = seen.problems[0]?.hint.split('\n').find((line) => line.startsWith('printf '))
    // A last line that nobody ended, as editors leave it.
    await host.exec('truncate -s -1 /home/look-current/.ssh/authorized_keys')
    expect((await host.exec(command ?? 'false')).code).toBe(0)
    const after = await look(pool, as('look-current'), { offerAgain: true })
    expect(after).toEqual({ loginKey: 'next', problems: [] })
    await told('look-current', 'refused next', 'accepted current', 'accepted next')
    await run(pooled(), as('look-current', { keys: [current.privateKey] }), 'true')
  })

  test.each(['look-next', 'look-both'])('of a server that takes it (%s) has nothing to say', async (user) => {
    const pool = pooled()
    expect(await look(pool, as(user))).toEqual({ loginKey: 'next', problems: [] })
    await endConnection(pool, user)
    await run(pool, as(user), 'true')
    await told(user, 'accepted next', 'accepted next')
  })

  test('with a secret that holds one key, or the same one twice, says so', async () => {
    const twice = [current.privateKey, current.privateKey]
    expect(await look(pooled(), as('twice', { keys: [current.privateKey] }))).toEqual({
      loginKey: 'only',
      problems: [],
    })
    expect(await look(pooled(), as('twice', { keys: twice }))).toEqual({ loginKey: 'only', problems: [] })
  })

  test('where sshd hangs up at a refused key: one failed login, and one more when a person asks', async () => {
    const pool = pooled()
    const user = 'once-look-current'
    const asked = ['refused next', 'failed', 'accepted current']
    expect(await look(pool, as(user))).toMatchObject({ loginKey: 'current', problems: [NOT_TAKEN] })
    await told(user, ...asked)
    await endConnection(pool, user)
    expect(await look(pool, as(user))).toMatchObject({ loginKey: 'current', problems: [NOT_TAKEN] })
    await told(user, ...asked, 'accepted current')
    expect(await look(pool, as(user), { offerAgain: true })).toMatchObject({ loginKey: 'current' })
    await told(user, ...asked, 'accepted current', ...asked)
  })

  test.each(['once-look-next', 'once-look-both'])('and where it need not (%s): none', async (user) => {
    expect(await look(pooled(), as(user))).toEqual({ loginKey: 'next', problems: [] })
    await told(user, 'accepted next')
  })

  test.each([
    ['look-neither', ['refused next', 'refused current', 'failed']],
    ['once-look-neither', ['refused next', 'failed', 'refused current', 'failed']],
  ])('of a server that takes neither (%s) fails, and once', async (user, offers) => {
    const pool = pooled()
    for (let round = 0; round < 2; round++) {
      expect((await failure(look(pool, as(user)))).code).toBe('ssh_auth_failed')
    }
    await told(user, ...offers)
  })

  test('finds a connection by the current key, and takes its place once it is not used any more', async () => {
    const pool = pooled()
    const order: string[] = []
    const job = run(pool, as('kept'), 'sleep 1').then(() => order.push('job'))
    await until(pool.stats, ({ open }) => open === 1)
    const seen = await look(pool, as('kept'))
    order.push('look')
    await job
    expect(order).toEqual(['job', 'look'])
    expect(seen).toMatchObject({ loginKey: 'current', problems: [NOT_TAKEN] })
    const twice = ['accepted current', 'refused next', 'accepted current']
    await told('kept', ...twice)
    // What it has found out holds for a while, and the connection for everybody.
    expect(await look(pool, as('kept'))).toMatchObject({ loginKey: 'current', problems: [NOT_TAKEN] })
    await run(pool, as('kept'), 'true')
    await told('kept', ...twice)
    expect((await host.exec('pgrep -c -u kept -f sshd')).stdout.trim()).toBe('1')
  })

  test('finds a connection by the next key, and stays', async () => {
    const pool = pooled()
    await look(pool, as('asked', { keys: [next.privateKey, current.privateKey] }))
    const turned = as('asked', { keys: [next.privateKey, current.privateKey] })
    expect(await look(pool, turned, { offerAgain: true })).toEqual({ loginKey: 'next', problems: [] })
    await told('asked', 'accepted current')
  })
})

describe('a jump host with the same secret', () => {
  const behind = async (user: string): Promise<Hop> => {
    const format = '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'
    const { stdout } = await runCommand('docker', ['inspect', '-f', format, fresh.name])
    const inner = hopTo(fresh, { user, keys: [current.privateKey, next.privateKey] })
    return { ...inner, server: { ...inner.server, host: stdout.trim(), port: 22, addresses: [] } }
  }

  test('that needs the current key is named, whatever the server behind it takes', async () => {
    const pool = pooled()
    const direct = await run(pool, as('bastion'), 'true')
    expect(direct.exitCode).toBe(0)
    const bastion = `jump host 127.0.0.1:${host.port}`
    const good = await look(pool, routeTo(hop('bastion'), await behind('look-both')))
    expect(good).toMatchObject({ loginKey: 'next', problems: [{ message: expect.stringContaining(bastion) }] })
    expect(good.problems).toHaveLength(1)
    const old = await look(pool, routeTo(hop('bastion'), await behind('look-current')))
    expect(old).toMatchObject({ loginKey: 'current', problems: [NOT_TAKEN, NOT_TAKEN] })
    expect(old.problems[0]?.hint).toContain('~bastion/.ssh')
    expect(old.problems[1]?.hint).toContain('~look-current/.ssh')
    // Its connection was made anew for the first look, and served the second.
    await told('bastion', 'accepted current', 'refused next', 'accepted current')
  })
})

describe('a server that punishes (OpenSSH 10.0, PerSourcePenalties as it comes)', () => {
  const punished = (log: string): boolean => /Not allowed at this time|penalty: (?:exceeded|activ)/.test(log)

  test('lets us in twenty times with a key refused on the way, and writes of no failure', async () => {
    expect((await fresh.exec('sshd -T')).stdout).toMatch(/^persourcepenalties .*authfail:5/m)
    for (let login = 0; login < 20; login++) {
      const route = routeTo(hopTo(fresh, { user: 'current', keys: [current.privateKey, next.privateKey] }))
      expect(await look(pooled(), route)).toMatchObject({ loginKey: 'current' })
    }
    const log = await fresh.log()
    expect(log.match(/Accepted publickey for current /g)).toHaveLength(20)
    expect(log).not.toContain('Failed publickey for current ')
    expect(punished(log)).toBe(false)
  })

  test('and with MaxAuthTries 1 as well: what fails is one login for each key and server, and the next waits', async () => {
    const keys = [current.privateKey, next.privateKey]
    const pool = pooled()
    for (const user of ['once-next', 'once-look-next', 'once-blank', 'once-current']) {
      await run(pool, routeTo(hopTo(fresh, { user, keys })), 'true').catch(() => undefined)
    }
    // sshd counts a login that failed when it has seen its child's end.
    await expect.poll(async () => (await fresh.exec('pgrep -c sshd-auth')).stdout.trim()).toBe('0')
    await run(pooled(), routeTo(hopTo(fresh, { user: 'current', keys })), 'true')
    const log = await fresh.log()
    expect(log.match(/Disconnecting authenticating user/g)).toHaveLength(4)
    expect(log).toContain('Accepted publickey for once-current ')
    expect(punished(log)).toBe(false)
  }, 60_000)
})

describe('a server that hangs up at a refused key without a word', () => {
  type Answer = 'accept' | 'reject' | 'hang up'

  /** Says what `answer` says to each key, by its name, and remembers what it was offered. */
  const startSilent = async (answer: (key: string) => Answer) => {
    const hostKey = await keygen()
    const offered: string[] = []
    const server = new ssh2.Server({ hostKeys: [hostKey.privateKey] }, (connection) => {
      connection.on('error', () => undefined)
      connection.on('authentication', (request) => {
        if (request.method !== 'publickey') return request.reject()
        const line = `${request.key.algo} ${request.key.data.toString('base64')}`
        const key = line === current.publicKey ? 'current' : 'next'
        if (request.signature === undefined) offered.push(key)
        const said = answer(key)
        if (said === 'accept') request.accept()
        else if (said === 'reject') request.reject()
        else connection.end()
      })
      connection.on('session', (accept) => {
        accept().on('exec', (acceptCommand) => {
          const channel = acceptCommand()
          channel.exit(0)
          channel.end()
        })
      })
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()))
    servers.push(server)
    const { port } = server.address() as AddressInfo
    return { offered, route: as('apono', { port, known: [hostKey.publicKey] }) }
  }

  test('is asked with the other key in a connection of its own', async () => {
    const { offered, route } = await startSilent((key) => (key === 'next' ? 'accept' : 'hang up'))
    expect((await run(pooled(), route, 'true')).exitCode).toBe(0)
    expect(offered).toEqual(['current', 'next'])
  })

  test('both times: is left alone', async () => {
    const { offered, route } = await startSilent(() => 'hang up')
    const pool = pooled()
    for (let job = 0; job < 3; job++) expect((await failure(run(pool, route, 'true'))).code).toBe('ssh_auth_failed')
    expect(offered).toEqual(['current', 'next'])
  })

  test('once, for trouble of its own, and does not take the next one: is offered the current one again', async () => {
    let trouble = true
    const { offered, route } = await startSilent((key) => {
      if (key === 'next') return 'reject'
      return trouble ? 'hang up' : 'accept'
    })
    const pool = pooled()
    expect((await failure(run(pool, route, 'true'))).code).toBe('ssh_auth_failed')
    trouble = false
    expect((await run(pool, route, 'true')).exitCode).toBe(0)
    expect(offered).toEqual(['current', 'next', 'current'])
  })
})
