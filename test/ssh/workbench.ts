import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import type { Deadlines } from '../../src/connector/config.ts'
import { type ExecutorDeps, executeJob, type JobOutcome } from '../../src/connector/executor.ts'
import { defaultGuard } from '../../src/connector/guard.ts'
import { hostKeySource } from '../../src/connector/known-hosts-file.ts'
import { createLeases } from '../../src/connector/leases.ts'
import type { JobError } from '../../src/host/errors.ts'
import { hostProgram } from '../../src/host/host-program.ts'
import { systemClock } from '../../src/observability/clock.ts'
import { JobHead } from '../../src/protocol/job.ts'
import { PresentResult } from '../../src/protocol/results.ts'
import { hostKeyRules } from '../../src/ssh/host-keys.ts'
import type { Pool, PoolLimits, UseOptions } from '../../src/ssh/pool.ts'
import type { Hop, Route } from '../../src/ssh/route.ts'
import { createTransport } from '../../src/ssh/transport.ts'
import { job } from '../connector/jobs.ts'
import { secretDirectory } from '../connector/setup.ts'
import type { TestHost } from '../hosts/hosts.ts'
import { type KeyPair, keygen, sshLogin } from '../hosts/openssh.ts'
import { fileRing } from '../secrets/rings.ts'
import { plainKey } from './plain-key.ts'

// A connector's transport with what stands above it, down to the executor, and without a control plane.

/** The connector's own, but for what only makes a test longer. */
export const DEADLINES: Deadlines = {
  tcpMs: 10_000,
  handshakeMs: 15_000,
  loginMs: 15_000,
  channelMs: 10_000,
  keepaliveMs: 2500,
  execMs: 30_000,
  silenceMs: 25_000,
  secretMs: 10_000,
}

export const makePool = (deadlines: Partial<Deadlines> = {}, limits: PoolLimits = {}): Pool =>
  createTransport({ clock: systemClock, random: randomBytes, deadlines: { ...DEADLINES, ...deadlines }, limits })

export type HopOptions = {
  user?: string
  known?: readonly string[]
  port?: number
  /** Private keys: the current one, then the next. */
  keys?: readonly string[]
  version?: string
}

/** A host by a port of 127.0.0.1; by default its own. */
export const hopTo = (
  host: TestHost,
  { user = 'apono', known = host.hostKeys, port, keys = [host.connectorKey], version = 'v1' }: HopOptions = {},
): Hop => ({
  server: { host: '127.0.0.1', port: port ?? host.port, user, addresses: [{ address: '127.0.0.1', family: 4 }] },
  key: { keys: keys.map(plainKey), version },
  rules: hostKeyRules({ host: '127.0.0.1', port: port ?? host.port, hostKeys: known }, 'pinned', null),
})

export const routeTo = (...hops: readonly [Hop, ...Hop[]]): Route => ({
  jumps: hops.slice(0, -1),
  target: hops.at(-1) ?? hops[0],
})

type RunOptions = UseOptions & { stdin?: string; timeoutMs?: number }

export const run = (pool: Pool, route: Route, command: string, options: RunOptions = {}) => {
  const { stdin = '', timeoutMs = 20_000, signal } = options
  return pool.use(route, options, (link) => link.exec(command, stdin, { timeoutMs, ...(signal ? { signal } : {}) }))
}

export const failure = (work: Promise<unknown>): Promise<JobError> =>
  work.then(
    () => Promise.reject(new Error('did not fail')),
    (error: JobError) => error,
  )

/** Sockets that this process holds. */
export const sockets = (): number =>
  readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith('socket:')
    } catch {
      return false
    }
  }).length

/** Sockets to a port that somebody on this machine still holds; closed ones that the kernel sees off have no inode. */
export const heldTo = (port: number): number => {
  const place = new RegExp(`^ *\\d+: \\S+ \\S+:${port.toString(16).toUpperCase().padStart(4, '0')} `)
  const lines = readFileSync('/proc/self/net/tcp', 'utf8').split('\n')
  return lines.filter((line) => place.test(line) && line.trim().split(/\s+/)[9] !== '0').length
}

/** What of ours still runs on a host: logins of the connection user, and programs by whichever way to root. */
export const leftOn = async (host: TestHost): Promise<string[]> => {
  const { stdout } = await host.exec('ps -eo args')
  return stdout.split('\n').filter((line) => /^sshd(?:-session)?: apono|^(?:sudo|doas) -n|^\/bin\/sh -s$/.test(line))
}

export const lockIsFree = async (host: TestHost): Promise<boolean> =>
  (await host.exec('flock -n /run/apono-connector/lock true')).code === 0

export type Grant = { id: string; login: string }

export const grantFor = (login: string): Grant => ({ id: `grt_${login}`, login })

/** Jobs on one host, by a port of 127.0.0.1. */
export const startWorkbench = async (
  host: TestHost,
  {
    port,
    pool,
    deadlines,
    user = 'apono',
  }: { port: number; pool: Pool; deadlines?: Partial<Deadlines>; user?: string },
) => {
  const directory = secretDirectory(host.connectorKey)
  const person: KeyPair = await keygen()
  const leases = createLeases(systemClock)
  const deps: ExecutorDeps = {
    clock: systemClock,
    random: randomBytes,
    guard: defaultGuard({
      clock: systemClock,
      resolve: async () => [{ address: '127.0.0.1', family: 4 }],
      resolveTimeoutMs: 1000,
      secretDirectory: directory,
      allowLoopback: true,
    }),
    keys: fileRing(directory, systemClock),
    pool,
    hostKeys: hostKeySource(null, systemClock),
    hostProgram,
    deadlines: { ...DEADLINES, ...deadlines },
    skew: { ms: () => 0, now: () => Date.now(), isSane: () => true },
    controlPlaneId: () => 'cp_test',
  }
  let generation = 0
  /** One job to its outcome, as the connector runs it: once more after a lost connection. */
  const ensure = async (grant: Grant, state: 'present' | 'absent'): Promise<JobOutcome> => {
    const raw = job({
      port,
      user,
      hostKeys: host.hostKeys,
      secretPath: path.join(directory, 'ssh.json'),
      grant: { ...grant, state, generation: ++generation, publicKey: person.publicKey },
    })
    const head = JobHead.parse(raw)
    const lease = leases.add(head, 120_000, systemClock.monotonic())
    if (lease === null) throw new Error('no lease')
    try {
      return await executeJob(raw, head, lease, deps)
    } finally {
      leases.remove(head)
    }
  }
  /** By OpenSSH, with the certificate that the outcome carries. */
  const logsIn = async ({ login }: Grant, outcome: JobOutcome): Promise<boolean> => {
    if (outcome.outcome !== 'succeeded') throw new Error(JSON.stringify(outcome.error))
    const certificatePath = `${person.privateKeyPath}-${login}-cert.pub`
    writeFileSync(certificatePath, `${PresentResult.parse(outcome.result).certificate}\n`)
    const there = {
      host,
      user: login,
      privateKeyPath: person.privateKeyPath,
      certificatePath,
      command: 'id -un; id -Gn',
    }
    return new RegExp(`^${login}\\n.*\\bdbadmins\\b`, 'm').test((await sshLogin(there)).stdout)
  }
  return { ensure, logsIn }
}

export type Workbench = Awaited<ReturnType<typeof startWorkbench>>

export const codeOf = (outcome: JobOutcome): string =>
  outcome.outcome === 'succeeded' ? 'succeeded' : outcome.error.code

/** Which of these logins stand on the host, with their group and unexpired; read in one go. */
export const standing = async (host: TestHost, logins: readonly string[]): Promise<string[]> => {
  const script = logins.map(
    (login) =>
      `getent group dbadmins | grep -qw ${login} && getent shadow ${login} | grep -qv ':1:$' && test -e /etc/ssh/apono-connector/${login} && echo ${login}`,
  )
  return (await host.exec(`${script.join('\n')}\ntrue`)).stdout.split('\n').filter((line) => line !== '')
}
