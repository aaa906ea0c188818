import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { JobError } from '../../src/host/errors.ts'
import { systemClock } from '../../src/observability/clock.ts'
import { type LoginKey, openPrivateKey } from '../../src/secrets/private-key.ts'
import { secretOf } from '../../src/secrets/secret.ts'
import type { HostKeyRules } from '../../src/ssh/host-keys.ts'
import { connectSsh, type SshOptions, type SshSession } from '../../src/ssh/session.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { keygen } from '../hosts/openssh.ts'
import { DEADLINES } from './deadlines.ts'
import { startRelay, startStranger } from './strangers.ts'

const ANY: HostKeyRules = {
  known: [],
  revoked: [],
  policy: 'trust_on_first_use',
  decidedBy: null,
  authorityOnly: false,
}
const PINNED: HostKeyRules = { ...ANY, policy: 'pinned' }

let host: TestHost
let key: LoginKey
const neverEncrypted = { open: () => Promise.reject(new Error('encrypted')) }
const parse = (privateKey: string): Promise<LoginKey> =>
  openPrivateKey({ privateKey: secretOf(privateKey) }, neverEncrypted)

// One account for each kind of trouble, all with the connector's key.
const ACCOUNTS = `
  for user in mfa nosessions onesession expired denied forced; do
    useradd -m -p '*' -s /bin/bash $user
    install -d -o $user -g $user -m 700 /home/$user/.ssh
    install -o $user -g $user -m 600 ~apono/.ssh/authorized_keys /home/$user/.ssh/authorized_keys
  done
  chage -E 1 expired
  echo '-:denied:ALL' >> /etc/security/access.conf
  sed -i '1i account required pam_access.so' /etc/pam.d/sshd
  ssh-keygen -q -t rsa -b 2048 -N '' -C '' -f /etc/ssh/ssh_host_rsa_key
  cat > /etc/ssh/sshd_config.d/50-test.conf <<'END'
LogLevel DEBUG1
Match User mfa
  AuthenticationMethods publickey,keyboard-interactive
  KbdInteractiveAuthentication yes
Match User nosessions
  MaxSessions 0
Match User onesession
  MaxSessions 1
Match User forced
  ForceCommand echo only this
END
  sshd -t && kill -HUP "$(cat /run/sshd.pid 2>/dev/null || pgrep -o -x sshd)" && sleep 0.3
`

beforeAll(async () => {
  host = await startHost({ setup: ACCOUNTS })
  key = await parse(host.connectorKey)
}, 120_000)
afterAll(() => host?.stop())

type Options = {
  user?: string
  port?: number
  rules?: HostKeyRules
  key?: LoginKey
  keys?: LoginKey[]
  address?: string
} & Partial<SshOptions>

const connect = (options: Options = {}): Promise<SshSession> => {
  const { user = 'apono', port = host.port, rules = ANY, address = '127.0.0.1', ...rest } = options
  const server = {
    host: 'server-1',
    port,
    user,
    addresses: [{ address, family: address.includes(':') ? 6 : 4 } as const],
  }
  return connectSsh(server, options.keys ?? [options.key ?? key], rules, {
    clock: systemClock,
    deadlines: DEADLINES,
    ...rest,
  })
}

const failure = async (work: Promise<unknown>): Promise<JobError> => {
  try {
    await work
  } catch (error) {
    if (error instanceof JobError) return error
    throw error
  }
  throw new Error('did not fail')
}

const using = async <T>(work: (session: SshSession) => Promise<T>, options: Options = {}): Promise<T> => {
  const session = await connect(options)
  try {
    return await work(session)
  } finally {
    await session.close()
  }
}

describe('a session', () => {
  test('runs a command with text on its stdin, and knows whom it talks to', async () => {
    await using(async (session) => {
      expect(session.serverSoftware).toMatch(/^OpenSSH_9\.2p1/)
      expect(host.hostKeys).toContain(session.hostKey)
      const outcome = await session.exec('cat; echo oops >&2; exit 7', 'over the wire', { timeoutMs: 3000 })
      expect(outcome).toEqual({ stdout: 'over the wire', stderr: 'oops\n', exitCode: 7, exitSignal: null })
      expect(await session.exec('kill -TERM $$', '', { timeoutMs: 3000 })).toMatchObject({
        exitCode: null,
        exitSignal: 'SIGTERM',
      })
    })
  })

  test.each(['ed25519', 'ecdsa', 'rsa'] as const)('logs in with a key of type %s', async (type) => {
    const pair = await keygen(undefined, type)
    const key = await parse(pair.privateKey)
    await host.exec(`echo '${pair.publicKey}' >>~apono/.ssh/authorized_keys`)
    await using(
      async (session) => {
        expect((await session.exec('id -un', '', { timeoutMs: 3000 })).stdout).toBe('apono\n')
      },
      { key },
    )
    const { fingerprint } = key
    const line = (await host.log())
      .split('\n')
      .find((one) => one.includes(fingerprint) && /Accepted publickey/.test(one))
    expect(line).toContain('Accepted publickey for apono')
  })

  test('runs many commands, some at once, on one connection', async () => {
    await using(async (session) => {
      const outcomes = await Promise.all([1, 2, 3, 4].map((n) => session.exec(`echo ${n}`, '', { timeoutMs: 3000 })))
      expect(outcomes.map(({ stdout }) => stdout)).toEqual(['1\n', '2\n', '3\n', '4\n'])
    })
  })

  test('learns the exit status of a command whose whole life arrives at once', async () => {
    // We look at the socket every 40 ms only, as on a busy machine: by then all of it has come.
    const busy = setInterval(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 40), 0)
    try {
      await using(async (session) => {
        for (let n = 0; n < 5; n++) {
          expect(await session.exec('exit 3', '', { timeoutMs: 3000 })).toMatchObject({ exitCode: 3 })
          expect(await session.exec('kill -TERM $$', '', { timeoutMs: 3000 })).toMatchObject({ exitSignal: 'SIGTERM' })
        }
      })
    } finally {
      clearInterval(busy)
    }
  })

  test('does not wait for acknowledgements: a warm exec is far below the 40 ms of Nagle', async () => {
    await using(async (session) => {
      const times: number[] = []
      for (let n = 0; n < 15; n++) {
        const from = performance.now()
        await session.exec('true', 'x', { timeoutMs: 3000 })
        times.push(performance.now() - from)
      }
      expect(times.sort((a, b) => a - b)[7]).toBeLessThan(30)
    })
  })

  test('stderr of 900 kB and stdin of 300 kB pass; more output than 1 MiB ends the connection', async () => {
    await using(async (session) => {
      const outcome = await session.exec('cat; head -c 900000 /dev/zero >&2', 'x'.repeat(300_000), { timeoutMs: 5000 })
      expect([outcome.stdout.length, outcome.stderr.length]).toEqual([300_000, 900_000])
      expect((await failure(session.exec('yes', '', { timeoutMs: 5000 }))).code).toBe('output_too_large')
      expect((await failure(session.exec('true', '', { timeoutMs: 3000 }))).code).toBe('connection_lost')
    })
  })

  test('close may be called twice, and nothing works after it', async () => {
    const session = await connect()
    await Promise.all([session.close(), session.close()])
    await session.close()
    expect((await failure(session.exec('true', '', { timeoutMs: 3000 }))).code).toBe('connection_lost')
  })
})

describe('host keys', () => {
  test.each(['ssh-ed25519', 'ecdsa-sha2-nistp256', 'ssh-rsa'])(
    'a known %s key is the one that is asked for',
    async (type) => {
      const { stdout } = await host.exec('cut -d " " -f 1-2 /etc/ssh/ssh_host_*_key.pub')
      const known = stdout.split('\n').filter((line) => line.startsWith(`${type} `))
      expect(known.length).toBe(1)
      await using(async (session) => expect(session.hostKey).toBe(known[0]), { rules: { ...PINNED, known } })
    },
  )

  test('an unknown one is refused where the policy is pinned', async () => {
    expect((await failure(connect({ rules: PINNED }))).code).toBe('host_key_unknown')
  })

  test('another one is refused whatever the policy, shown, and no login is tried', async () => {
    const { publicKey } = await keygen()
    const shown: string[] = []
    const rules: HostKeyRules = { ...ANY, known: [publicKey] }
    const error = await failure(connect({ rules, user: 'hostkeytest', onHostKey: (line) => void shown.push(line) }))
    expect(error.code).toBe('host_key_changed')
    expect(host.hostKeys).toContain(shown[0])
    expect(await host.log()).not.toContain('hostkeytest')
  })

  test('a known key of a type that the server no longer has counts as changed', async () => {
    const known = ['ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjE=']
    expect((await failure(connect({ rules: { ...PINNED, known } }))).code).toBe('host_key_changed')
  })
})

describe('a refused login', () => {
  test('is tried exactly once', async () => {
    await failure(connect({ user: 'onetry' }))
    const attempts = async () => (await host.log()).match(/userauth-request for user onetry .* method \S+/g)
    await expect.poll(attempts).toEqual(['userauth-request for user onetry service ssh-connection method publickey'])
    // Both lines of one attempt come before the disconnect: nothing can follow it.
    await expect.poll(() => host.log()).toContain('Disconnected from invalid user onetry')
    expect(await attempts()).toHaveLength(1)
  })

  test('names user, host and key', async () => {
    const other = await parse((await keygen()).privateKey)
    const error = await failure(connect({ key: other, user: 'apono' }))
    expect(error.code).toBe('ssh_auth_failed')
    expect(error.retryable).toBe(false)
    expect(error.hint).toContain(`server-1:${host.port} refused key ${other.fingerprint} for user apono`)
    expect(error.hint).toContain('chown -R apono:apono /home/apono/.ssh')
  })

  test.each([
    ['mfa', 'ssh_mfa_required', 'keyboard-interactive'],
    ['expired', 'ssh_account_expired', 'has expired'],
    ['denied', 'ssh_account_denied', 'closed the connection'],
  ])('%s: %s', async (user, code, message) => {
    const error = await failure(connect({ user }))
    expect(error.code).toBe(code)
    expect(error.message).toContain(message)
  })

  test('nobody may log in at the moment: ssh_nologin, and a banner of other words is no reason', async () => {
    const until = 'Unprivileged users are not permitted to log in anymore. For technical details, see pam_nologin(8).'
    await host.exec(`echo 'System is going down. ${until}' > /run/nologin`)
    const error = await failure(connect())
    expect(error).toMatchObject({ code: 'ssh_nologin', retryable: true })
    expect(error.message).toContain('System is going down')
    await host.exec("echo 'closed on sundays' > /run/nologin")
    expect((await failure(connect())).code).toBe('ssh_account_denied')
    await host.exec('rm /run/nologin')
    await using(async (session) => expect(session.user).toBe('apono'))
  })

  test('no channel may ever be opened: ssh_no_sessions', async () => {
    await using(
      async (session) => {
        const error = await failure(session.exec('true', '', { timeoutMs: 3000 }))
        expect(error).toMatchObject({ code: 'ssh_no_sessions', retryable: false })
      },
      { user: 'nosessions' },
    )
  })

  test('one channel too many: ssh_channel_refused, and the connection goes on', async () => {
    await using(
      async (session) => {
        const first = session.exec(
          'read line; echo "$line"; touch /tmp/first; while [ -e /tmp/first ]; do sleep 0.05; done',
          'hello\n',
          {
            timeoutMs: 5000,
          },
        )
        await expect.poll(async () => (await host.exec('test -e /tmp/first')).code).toBe(0)
        const error = await failure(session.exec('true', '', { timeoutMs: 3000 }))
        expect(error).toMatchObject({ code: 'ssh_channel_refused', retryable: true })
        await host.exec('rm /tmp/first')
        expect((await first).stdout).toBe('hello\n')
        // sshd frees the place a moment after it has told us of the end.
        const again = () => session.exec('echo again', '', { timeoutMs: 3000 }).catch((error: JobError) => error.code)
        await expect.poll(again).toMatchObject({ stdout: 'again\n' })
      },
      { user: 'onesession' },
    )
  })

  test('a forced command is for the host program to notice', async () => {
    await using(
      async (session) => {
        const outcome = await session.exec('id', '', { timeoutMs: 3000 })
        expect(outcome).toMatchObject({ stdout: 'only this\n', exitCode: 0 })
      },
      { user: 'forced' },
    )
  })

  test('RSA keys sign with SHA-2', async () => {
    const rsa = await keygen(undefined, 'rsa')
    await host.exec(`echo '${rsa.publicKey}' >> ~apono/.ssh/authorized_keys`)
    await using(async (session) => expect(session.user).toBe('apono'), {
      key: await parse(rsa.privateKey),
    })
  })
})

describe('strangers on the port', () => {
  const cases: [string, (socket: import('node:net').Socket) => void, string, string][] = [
    ['closes at once', (socket) => socket.end(), 'ssh_turned_away', 'closed before SSH began'],
    ['resets at once', (socket) => socket.resetAndDestroy(), 'ssh_turned_away', ''],
    [
      'has too many connections',
      (socket) => socket.end('Exceeded MaxStartups\r\n'),
      'ssh_turned_away',
      'Exceeded MaxStartups',
    ],
    ['has penalised us', (socket) => socket.end('Not allowed at this time\r\n'), 'ssh_penalised', 'Not allowed'],
    ['says nothing', () => undefined, 'ssh_timeout', 'no SSH handshake within 400 ms'],
    ['says who it is and nothing more', (socket) => socket.write('SSH-2.0-OpenSSH_9.9\r\n'), 'ssh_timeout', ''],
    [
      'says who it is and closes',
      (socket) => socket.end('SSH-2.0-OpenSSH_9.9\r\n'),
      'ssh_unreachable',
      'during the SSH handshake',
    ],
    ['speaks HTTP', (socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'), 'ssh_handshake_failed', 'HTTP/1.1 400'],
    ['speaks SSH 1', (socket) => socket.end('SSH-1.5-old\r\n'), 'ssh_handshake_failed', 'SSH-1.5'],
    [
      'sends endless text',
      (socket) => void setInterval(() => socket.destroyed || socket.write('x'.repeat(9000)), 5).unref(),
      'ssh_',
      '',
    ],
    [
      'sends noise after its name',
      (socket) => socket.write(`SSH-2.0-x\r\n${'\u0007'.repeat(5000)}`),
      'ssh_handshake_failed',
      '',
    ],
  ]
  test.each(cases)('one that %s', async (_name, greet, code, message) => {
    const stranger = await startStranger(greet)
    const error = await failure(connect({ port: stranger.port, deadlines: { ...DEADLINES, handshakeMs: 400 } }))
    expect(error.code).toContain(code)
    expect(error.message).toContain(message)
    expect(stranger.connections()).toBe(1)
    await stranger.close()
  })

  test('nobody', async () => {
    const stranger = await startStranger(() => undefined)
    await stranger.close()
    const error = await failure(connect({ port: stranger.port }))
    expect(error).toMatchObject({ code: 'ssh_unreachable', message: 'the connection was refused' })
  })

  test('an address that swallows packets: ssh_timeout within the deadline', async () => {
    const from = performance.now()
    // TEST-NET-1 (RFC 5737). Where this machine has no route to it at all, it is unreachable instead.
    const error = await failure(connect({ address: '192.0.2.1', deadlines: { ...DEADLINES, tcpMs: 300 } }))
    expect(['ssh_timeout', 'ssh_unreachable']).toContain(error.code)
    expect(performance.now() - from).toBeLessThan(2000)
  })
})

describe('a connection that ends', () => {
  const relayed = async (
    work: (session: SshSession, relay: Awaited<ReturnType<typeof startRelay>>) => Promise<void>,
    options: Options = {},
  ) => {
    const relay = await startRelay(host.port)
    try {
      await using((session) => work(session, relay), { port: relay.port, ...options })
    } finally {
      await relay.close()
    }
  }
  const started = async (file: string): Promise<void> => {
    await expect.poll(async () => (await host.exec(`test -e ${file}`)).code, { timeout: 5000 }).toBe(0)
  }

  test.each(['reset', 'end'] as const)('by %s, in the middle of a command: connection_lost', async (how) => {
    await relayed(async (session, relay) => {
      const running = failure(session.exec(`touch /tmp/lost-${how}; sleep 30`, '', { timeoutMs: 20_000 }))
      await started(`/tmp/lost-${how}`)
      relay.cut(how)
      expect((await running).code).toBe('connection_lost')
    })
  })

  test('in silence: noticed by keepalive', async () => {
    await relayed(
      async (session, relay) => {
        relay.freeze()
        const error = await failure(session.exec('true', '', { timeoutMs: 20_000 }))
        expect(error.code).toBe('connection_lost')
      },
      { deadlines: { ...DEADLINES, keepaliveMs: 100, channelMs: 15_000 } },
    )
  })

  test('opening a channel has a deadline', async () => {
    await relayed(
      async (session, relay) => {
        relay.freeze()
        const error = await failure(session.exec('true', '', { timeoutMs: 20_000 }))
        expect(error).toMatchObject({ code: 'ssh_timeout', message: 'opening a channel took longer than 200 ms' })
      },
      { deadlines: { ...DEADLINES, channelMs: 200 } },
    )
  })

  test('a command has a deadline, and the connection does not survive it', async () => {
    await using(async (session) => {
      expect((await failure(session.exec('sleep 30', '', { timeoutMs: 300 }))).code).toBe('ssh_timeout')
      expect((await failure(session.exec('true', '', { timeoutMs: 3000 }))).code).toBe('connection_lost')
    })
  })

  test('because it was called off: while connecting, while logging in, during a command', async () => {
    const silent = await startStranger(() => undefined)
    const early = AbortSignal.abort()
    expect((await failure(connect({ port: silent.port, signal: early }))).code).toBe('cancelled')
    const login = new AbortController()
    const waiting = failure(connect({ port: silent.port, signal: login.signal }))
    await expect.poll(() => silent.connections()).toBeGreaterThan(0)
    login.abort()
    expect((await waiting).code).toBe('cancelled')
    await silent.close()
    await using(async (session) => {
      const off = new AbortController()
      const running = failure(session.exec('touch /tmp/off; sleep 30', '', { timeoutMs: 20_000, signal: off.signal }))
      await started('/tmp/off')
      off.abort()
      expect((await running).code).toBe('cancelled')
    })
  })
})

describe('algorithms', () => {
  test('a server that only has SHA-1 key exchange is refused', async () => {
    const old = await startHost({
      connectorKey: {
        privateKeyPath: host.connectorKeyPath,
        publicKeyPath: '',
        privateKey: host.connectorKey,
        publicKey: host.connectorPublicKey,
      },
      setup: `echo 'KexAlgorithms diffie-hellman-group14-sha1' > /etc/ssh/sshd_config.d/10-old.conf
        sshd -t && kill -HUP "$(cat /run/sshd.pid 2>/dev/null || pgrep -o -x sshd)" && sleep 0.3`,
    })
    try {
      const error = await failure(connect({ port: old.port }))
      expect(error.code).toBe('ssh_handshake_failed')
      expect(error.message).toContain('no matching key exchange')
    } finally {
      await old.stop()
    }
  })
})
