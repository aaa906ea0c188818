import { getDiffieHellman } from 'node:crypto'
import type { AddressInfo } from 'node:net'
import net from 'node:net'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import ssh2 from 'ssh2'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import { JobError } from '../../src/host/errors.ts'
import { systemClock } from '../../src/observability/clock.ts'
import { sshString, uint32 } from '../../src/protocol/ssh-wire.ts'
import type { LoginKey } from '../../src/secrets/private-key.ts'
import { type HostKeyRules, hostKeyRules } from '../../src/ssh/host-keys.ts'
import { connectSsh, type SshSession } from '../../src/ssh/session.ts'
import { keygen } from '../hosts/openssh.ts'
import { DEADLINES } from './deadlines.ts'
import { startImpostor } from './impostor.ts'
import { plainKey } from './plain-key.ts'
import { startStranger } from './strangers.ts'

// Servers and jump hosts that mean harm, within what SSH lets them do.

let key: LoginKey
let hostKey: string
let pinned: HostKeyRules
beforeAll(async () => {
  const [login, host] = await Promise.all([keygen(), keygen()])
  key = plainKey(login.privateKey)
  hostKey = host.privateKey
  pinned = hostKeyRules({ host: 'a', port: 22, hostKeys: [host.publicKey] }, 'pinned', null)
})

const endings: (() => unknown)[] = []
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end()
})

/** Lets everybody in, and then does what `behave` says. */
const serve = async (behave: (connection: ssh2.Connection) => void): Promise<number> => {
  const server = new ssh2.Server({ hostKeys: [hostKey] }, (connection) => {
    connection.on('error', () => undefined)
    connection.on('authentication', (request) => request.accept())
    behave(connection)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()))
  endings.push(() => server.close())
  return (server.address() as AddressInfo).port
}

const connect = async (port: number, tcpMs = DEADLINES.tcpMs): Promise<SshSession> => {
  const server = { host: 'a', port, user: 'apono', addresses: [{ address: '127.0.0.1', family: 4 as const }] }
  const deadlines = { ...DEADLINES, tcpMs }
  const session = await connectSsh(server, [key], pinned, { clock: systemClock, deadlines })
  endings.push(() => session.close())
  return session
}
const failure = (work: Promise<unknown>): Promise<JobError> =>
  work.then(
    () => new JobError('internal_error', 'no failure'),
    (error: JobError) => error,
  )

describe('an impostor', () => {
  test.each([100, 3000, 40_000])('is called one, also where it says %i bytes before SSH begins', async (bytes) => {
    const impostor = await startImpostor()
    const stranger = await startStranger((socket) => {
      socket.write(`${'welcome '.repeat(12)}\r\n`.repeat(bytes / 100))
      const far = net.connect(impostor.port, '127.0.0.1')
      far.on('error', () => undefined)
      socket.on('close', () => far.destroy())
      setTimeout(() => socket.pipe(far).pipe(socket), 50)
    })
    endings.push(impostor.close, stranger.close)
    expect(await failure(connect(stranger.port))).toMatchObject({ code: 'host_key_changed' })
  })

  test('is called one, also where the words before and SSH’s own come at once', async () => {
    const impostor = await startImpostor()
    const stranger = await startStranger((socket) => {
      const far = net.connect(impostor.port, '127.0.0.1')
      far.on('error', () => undefined)
      socket.on('close', () => far.destroy())
      far.once('data', (first) => {
        socket.write(Buffer.concat([Buffer.from(`${'welcome '.repeat(300)}\r\n`), first]))
        far.pipe(socket)
      })
      socket.pipe(far)
    })
    endings.push(impostor.close, stranger.close)
    expect(await failure(connect(stranger.port))).toMatchObject({ code: 'host_key_changed' })
  })
})

describe('a server that wants more than a key', () => {
  test('and names it in its own way is quoted on one short, printable line', async () => {
    const server = new ssh2.Server({ hostKeys: [hostKey] }, (connection) => {
      connection.on('error', () => undefined)
      connection.on('authentication', (request) => {
        const methods = ['keyboard-interactive', '\x1b[2J\r\nall is well', 'x'.repeat(20_000)]
        request.reject(methods as ssh2.AuthenticationType[], true)
      })
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()))
    endings.push(() => server.close())
    const error = await failure(connect((server.address() as AddressInfo).port))
    expect(error.code).toBe('ssh_mfa_required')
    expect(error.message).toMatch(/^[\x20-\x7e]{1,200}$/)
    expect(error.message).toContain('keyboard-interactive')
  })
})

/** RFC 4253, section 6, before there is a cipher. */
const packet = (type: number, ...fields: Buffer[]): Buffer => {
  const payload = Buffer.concat([Buffer.from([type]), ...fields])
  const padding = 16 - ((payload.length + 5) % 8)
  return Buffer.concat([uint32(payload.length + padding + 1), Buffer.from([padding]), payload, Buffer.alloc(padding)])
}

describe('a group of its own for Diffie-Hellman', () => {
  test('is never looked at: to find out whether a number is prime holds up everything else', async () => {
    const [kexInit, gexGroup] = [20, 31]
    const names = [
      'diffie-hellman-group-exchange-sha256',
      'ssh-ed25519',
      ...['aes128-ctr', 'aes128-ctr', 'hmac-sha2-256', 'hmac-sha2-256', 'none', 'none', '', ''],
    ].map((list) => sshString(list))
    // Prime, and of no group that is known; 8192 bits take 25 s.
    const safePrime = BigInt(`0x${getDiffieHellman('modp16').getPrime('hex')}`)
    const prime = Buffer.from(((safePrime - 1n) / 2n).toString(16).padStart(1024, '0'), 'hex')
    const stranger = await startStranger((socket) => {
      socket.write('SSH-2.0-OpenSSH_9.2\r\n')
      socket.write(packet(kexInit, Buffer.alloc(16), ...names, Buffer.alloc(5)))
      socket.write(packet(gexGroup, sshString(prime), sshString(Buffer.from([2]))))
    })
    endings.push(stranger.close)
    const delay = monitorEventLoopDelay({ resolution: 5 })
    delay.enable()
    const error = await failure(connect(stranger.port))
    delay.disable()
    expect(delay.max / 1e6).toBeLessThan(1000)
    expect(error).toMatchObject({ code: 'ssh_handshake_failed' })
  })
})

describe('a jump host', () => {
  test('that opens the way when nobody waits for it any more has it closed again', async () => {
    let ended = 0
    const port = await serve((connection) => {
      connection.on('tcpip', (accept) => {
        setTimeout(() => {
          const channel = accept()
          channel.on('close', () => ended++)
          channel.resume()
        }, 300)
      })
    })
    const session = await connect(port, 100)
    expect(await failure(session.forward('b', 22))).toMatchObject({ code: 'jump_failed' })
    await expect.poll(() => ended, { timeout: 2000 }).toBe(1)
  })
})

describe('a command', () => {
  test('that prints byte by byte takes little more memory than what it prints', async () => {
    const bytes = 30_000
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    const used = (): number => {
      collect()
      const { heapUsed, external } = process.memoryUsage()
      return heapUsed + external
    }
    const { promise: begun, resolve: begin } = Promise.withResolvers<ssh2.ServerChannel>()
    const port = await serve((connection) => {
      connection.on('session', (accept) => {
        accept().on('exec', (acceptCommand) => begin(acceptCommand()))
      })
    })
    const session = await connect(port)
    const running = session.exec('chatter', '', { timeoutMs: 60_000 })
    const channel = await begun
    const before = used()
    for (let sent = 0; sent < bytes; sent++) {
      channel.write('x')
      // So that each goes out by itself.
      if (sent % 100 === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    await new Promise((resolve) => setTimeout(resolve, 500))
    const taken = used() - before
    channel.exit(0)
    channel.end()
    expect((await running).stdout).toHaveLength(bytes)
    expect(taken).toBeLessThan(3_000_000)
  }, 60_000)
})
