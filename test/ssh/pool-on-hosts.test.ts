import { randomBytes } from 'node:crypto'
import net from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { JobError } from '../../src/host/errors.ts'
import { systemClock } from '../../src/observability/clock.ts'
import { hostKeyRules } from '../../src/ssh/host-keys.ts'
import type { Pool, UseOptions } from '../../src/ssh/pool.ts'
import type { RampOptions } from '../../src/ssh/ramp.ts'
import type { Hop, Route } from '../../src/ssh/route.ts'
import { createTransport } from '../../src/ssh/transport.ts'
import { runCommand } from '../hosts/command.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { type KeyPair, keygen } from '../hosts/openssh.ts'
import { DEADLINES } from './deadlines.ts'
import { plainKey } from './plain-key.ts'

// The pool between real servers: how many connections there are is read from sshd.

let jump: TestHost
let inner: TestHost
let other: KeyPair
const addresses = new Map<string, string>()
const addressOf = async (host: TestHost) => {
  const { stdout } = await runCommand('docker', [
    'inspect',
    '-f',
    '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}',
    host.name,
  ])
  return stdout.trim()
}

/** `lone` may have one session, `shut` forwards nothing. */
const ACCOUNTS = `
  for user in lone shut; do
    useradd -m -p '*' -s /bin/bash $user
    install -d -o $user -g $user -m 700 /home/$user/.ssh
    install -o $user -g $user -m 600 ~apono/.ssh/authorized_keys /home/$user/.ssh/authorized_keys
  done
  cat > /etc/ssh/sshd_config.d/50-test.conf <<'END'
MaxStartups 2
Match User lone
  MaxSessions 1
Match User shut
  AllowTcpForwarding no
END
  kill -HUP "$(cat /run/sshd.pid)"; sleep 0.3
`

beforeAll(async () => {
  other = await keygen()
  jump = await startHost({ setup: ACCOUNTS, hostname: 'jump' })
  inner = await startHost({ connectorKey: other, hostname: 'inner' })
  for (const host of [jump, inner]) addresses.set(host.name, await addressOf(host))
}, 120_000)
afterAll(async () => {
  await jump?.stop()
  await inner?.stop()
})

const withPool = async (work: (pool: Pool) => Promise<void>, ramp?: RampOptions): Promise<void> => {
  const pool = createTransport({
    clock: systemClock,
    random: randomBytes,
    deadlines: DEADLINES,
    ...(ramp ? { ramp } : {}),
  })
  try {
    await work(pool)
  } finally {
    await pool.close()
  }
}

/** As the connector sees it from outside, or, behind the jump host, from there. */
const hopTo = (
  host: TestHost,
  more: { user?: string; behind?: boolean; known?: string[]; port?: number } = {},
): Hop => ({
  server: {
    host: more.behind === true ? (addresses.get(host.name) ?? '') : '127.0.0.1',
    port: more.port ?? (more.behind === true ? 22 : host.port),
    user: more.user ?? 'apono',
    addresses: more.behind === true ? [] : [{ address: '127.0.0.1', family: 4 }],
  },
  key: { keys: [plainKey(host.connectorKey)], version: 'v1' },
  rules: hostKeyRules({ host: '', port: 22, hostKeys: more.known ?? host.hostKeys }, 'pinned', null),
})
const through = (...hops: Hop[]): Route => ({ jumps: hops.slice(0, -1), target: hops.at(-1) as Hop })
const run = (pool: Pool, route: Route, command: string, options: UseOptions = {}) =>
  pool.use(route, options, (link) => link.exec(command, '', { timeoutMs: 5000 }))
const failure = (work: Promise<unknown>): Promise<JobError> =>
  work.then(
    () => Promise.reject(new Error('did not fail')),
    (error: JobError) => error,
  )
/** Connections of a user that its sshd holds. */
const held = async (host: TestHost, user = 'apono') => {
  const { stdout } = await host.exec('ps -eo args')
  return stdout.split('\n').filter((line) => new RegExp(`^sshd: ${user}(?:@|$)`).test(line.trim())).length
}

describe('one server', () => {
  test('twenty commands at once go over one connection', async () => {
    await withPool(async (pool) => {
      const route = through(hopTo(inner))
      const outcomes = await Promise.all(Array.from({ length: 20 }, (_, n) => run(pool, route, `sleep 0.1; echo ${n}`)))
      expect(outcomes.map(({ stdout }) => stdout)).toEqual(outcomes.map((_, n) => `${n}\n`))
      expect(await held(inner)).toBe(1)
    })
    await expect.poll(() => held(inner)).toBe(0)
  })

  test('an IPv6 address is the same in whatever notation', async () => {
    const relay = net.createServer((socket) => {
      const far = net.connect(inner.port, '127.0.0.1')
      socket.pipe(far).pipe(socket)
      for (const end of [socket, far]) end.on('error', () => undefined)
    })
    await new Promise<void>((resolve) => relay.listen(0, '::1', () => resolve()))
    try {
      await withPool(async (pool) => {
        const { port } = relay.address() as net.AddressInfo
        const hop = hopTo(inner, { port })
        const addresses = [{ address: '0:0:0:0:0:0:0:1', family: 6 }] as const
        const route = through({ ...hop, server: { ...hop.server, addresses } })
        for (let round = 0; round < 3; round++) expect((await run(pool, route, 'echo in')).stdout).toBe('in\n')
        expect(await held(inner)).toBe(1)
      })
    } finally {
      relay.close()
    }
  })

  test('one that allows one session is used by one at a time', async () => {
    await withPool(async (pool) => {
      const route = through(hopTo(jump, { user: 'lone' }))
      const outcomes = await Promise.all(Array.from({ length: 6 }, (_, n) => run(pool, route, `echo ${n}`)))
      expect(outcomes.map(({ stdout }) => stdout)).toEqual(outcomes.map((_, n) => `${n}\n`))
      expect(await held(jump, 'lone')).toBe(1)
    })
  })

  test('a fleet behind one sshd with MaxStartups 2 is let in, all of it', async () => {
    // Sixteen servers by name, one sshd in truth.
    const users = Array.from({ length: 16 }, (_, n) => `fleet${n}`)
    await jump.exec(
      `for user in ${users.join(' ')}; do useradd -m -p '*' $user; cp -r ~apono/.ssh /home/$user/; chown -R $user: /home/$user; done`,
    )
    await withPool(async (pool) => {
      const outcomes = await Promise.all(users.map((user) => run(pool, through(hopTo(jump, { user })), 'id -un')))
      expect(outcomes.map(({ stdout }) => stdout.trim())).toEqual(users)
    })
  })

  test('a key that it refused is offered once, and again only when the secret has changed', async () => {
    const refusals = async () =>
      (await inner.log()).split('\n').filter((line) => /Disconnected from authenticating user apono/.test(line)).length
    await withPool(async (pool) => {
      const before = await refusals()
      const wrongKey = plainKey(jump.connectorKey)
      const wrong = { ...hopTo(inner), key: { keys: [wrongKey], version: 'v1' } }
      for (let round = 0; round < 3; round++) {
        const error = await failure(run(pool, through(wrong), 'true'))
        expect(error.code).toBe('ssh_auth_failed')
        for (const part of ['127.0.0.1', 'apono', wrongKey.fingerprint]) expect(error.hint).toContain(part)
      }
      await expect.poll(refusals).toBe(before + 1)
      const right = { ...hopTo(inner), key: { keys: [plainKey(inner.connectorKey)], version: 'v2' } }
      expect((await run(pool, through(right), 'echo in')).stdout).toBe('in\n')
    })
  })
})

describe('a jump host', () => {
  test('leads to a server that can be reached from there only, with keys of its own for each', async () => {
    await withPool(async (pool) => {
      const seen: string[] = []
      const route = through(hopTo(jump), hopTo(inner, { behind: true }))
      const outcome = await run(pool, route, 'hostname; echo $SSH_CONNECTION', {
        onHostKey: (hop, line) => void (seen.includes(line) || seen.push(line) > 0 || hop),
      })
      const [name, connection] = outcome.stdout.split('\n')
      expect(name).toBe('inner')
      expect(connection?.split(' ')[0]).toBe(addresses.get(jump.name))
      expect(jump.hostKeys).toContain(seen[0])
      expect(inner.hostKeys).toContain(seen[1])
      await run(pool, route, 'true')
      expect([await held(jump), await held(inner)]).toEqual([1, 1])
    })
    await expect.poll(async () => [await held(jump), await held(inner)]).toEqual([0, 0])
  })

  test('of a jump host works as well', async () => {
    await withPool(async (pool) => {
      const route = through(hopTo(jump), hopTo(inner, { behind: true }), hopTo(jump, { behind: true, user: 'lone' }))
      expect((await run(pool, route, 'hostname; id -un')).stdout).toBe('jump\nlone\n')
    })
  })

  test('carries more than fits in a window, both ways', async () => {
    await withPool(async (pool) => {
      const route = through(hopTo(jump), hopTo(inner, { behind: true }))
      const text = 'x'.repeat(900_000)
      const outcome = await pool.use(route, {}, (link) => link.exec('cat', text, { timeoutMs: 20_000 }))
      expect(outcome.stdout === text).toBe(true)
    })
  })

  test('that shows another key is not believed, and neither is the server behind it', async () => {
    await withPool(async (pool) => {
      const server = hopTo(inner, { behind: true })
      const impostor = await failure(run(pool, through(hopTo(jump, { known: inner.hostKeys }), server), 'true'))
      expect(impostor).toMatchObject({ code: 'host_key_changed' })
      expect(impostor.message).toMatch(/^jump host 127\.0\.0\.1:/)
      const behind = await failure(
        run(pool, through(hopTo(jump), hopTo(inner, { behind: true, known: jump.hostKeys })), 'true'),
      )
      expect(behind).toMatchObject({ code: 'host_key_changed' })
      expect(behind.message).not.toContain('jump host')
    })
  })

  test('that forwards nothing is told as such; so is a server that it cannot reach', async () => {
    await withPool(async (pool) => {
      const server = hopTo(inner, { behind: true })
      expect((await failure(run(pool, through(hopTo(jump, { user: 'shut' }), server), 'true'))).code).toBe(
        'jump_forbidden',
      )
      const closed = hopTo(inner, { behind: true, port: 2 })
      expect((await failure(run(pool, through(hopTo(jump), closed), 'true'))).code).toBe('jump_failed')
    })
  })

  test('that dies takes what is behind it along, and nothing else', async () => {
    await withPool(async (pool) => {
      const route = through(hopTo(jump, { user: 'fleet0' }), hopTo(inner, { behind: true }))
      const lost = failure(run(pool, route, 'touch /tmp/inside; sleep 30'))
      const direct = run(pool, through(hopTo(inner)), 'sleep 1; echo well')
      await expect.poll(async () => (await inner.exec('test -e /tmp/inside')).code).toBe(0)
      await jump.exec('pkill -KILL -u fleet0')
      expect((await lost).code).toBe('connection_lost')
      expect((await direct).stdout).toBe('well\n')
      expect((await run(pool, route, 'echo again')).stdout).toBe('again\n')
    })
  })
})
