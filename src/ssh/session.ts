import type { Duplex } from 'node:stream'
import ssh2, { type Client } from 'ssh2'
import { type ErrorFacts, JobError } from '../host/errors.ts'
import type { HostLink } from '../host/link.ts'
import type { Clock } from '../observability/clock.ts'
import type { LoginKey } from '../secrets/private-key.ts'
import { algorithmsFor } from './algorithms.ts'
import { withDeadline } from './deadline.ts'
import { type ExecContext, execOn } from './exec.ts'
import { type HostKeyRules, hostKeyLine, judgeHostKey, typeOfHostKey } from './host-keys.ts'
import { type CheckedAddress, openSocket } from './socket.ts'
import { connectionFailure, type Progress, startProgress } from './trouble.ts'

export interface SshServer {
  /** As the integration names it; only for messages, `addresses` are what is connected to. */
  readonly host: string
  readonly port: number
  readonly user: string
  readonly addresses: readonly CheckedAddress[]
}

/** All in milliseconds. */
export interface SshDeadlines {
  readonly tcpMs: number
  /** From the TCP connection to the accepted login. */
  readonly handshakeMs: number
  readonly channelMs: number
  /** A dead peer is noticed after about `keepaliveMs` × 4. */
  readonly keepaliveMs: number
}

export interface SshOptions {
  readonly clock: Clock
  readonly deadlines: SshDeadlines
  readonly signal?: AbortSignal
  /** Told the key that the server shows, also when it is then refused: the one thing that a report needs of it. */
  readonly onHostKey?: (line: string) => void
}

export interface SshSession extends HostLink {
  /** Resolves when the socket is closed; safe to call more than once. */
  close(): Promise<void>
}

const KEEPALIVE_MISSES = 3
const CLOSE_GRACE_MS = 500
const MAX_GREETING = 1024
const MAX_BANNER = 16 * 1024

interface Attempt {
  readonly client: Client
  readonly socket: Duplex
  readonly progress: Progress
  readonly server: SshServer
  readonly key: LoginKey
  readonly rules: HostKeyRules
  readonly options: SshOptions
  readonly facts: ErrorFacts
}

/** The identification is public, but ssh2 keeps it to itself; we own the socket, so we read it there. */
const watchGreeting = ({ socket, progress }: Attempt): void => {
  const onData = (chunk: Buffer): void => {
    progress.greeting += chunk.toString('latin1').slice(0, MAX_GREETING)
    const found = /^SSH-(?:2\.0|1\.99)-([\x20-\x7e]{1,255})\r?\n/m.exec(progress.greeting)
    if (found !== null) progress.serverSoftware = found[1] ?? ''
    if (found !== null || progress.greeting.length > 16 * MAX_GREETING) socket.off('data', onData)
  }
  socket.on('data', onData)
}

/** Synchronous by necessity: ssh2 takes a promise for a yes. Also asked again at every rekey. */
const verifyHostKey =
  ({ progress, rules, options }: Attempt) =>
  (blob: Buffer): boolean => {
    const line = hostKeyLine(blob)
    if (progress.presentedKey !== null && progress.presentedKey !== line) progress.verdict = 'host_key_changed'
    else progress.verdict = judgeHostKey(line, rules)
    progress.presentedKey ??= line
    options.onHostKey?.(line)
    return progress.verdict === 'accepted'
  }

/** One publickey attempt and nothing else, ever; ssh2 asks again after each refusal and is told no. */
const authenticateOnce =
  ({ progress, key, server }: Attempt) =>
  (methodsLeft: readonly string[] | null, partialSuccess: boolean | null, next: (method: never) => void): void => {
    const answer = next as (method: unknown) => void
    if (progress.keyOffered) {
      progress.keyRefused = partialSuccess !== true
      progress.partialSuccess = partialSuccess === true
      progress.methodsLeft = methodsLeft ?? []
      answer(false)
      return
    }
    progress.keyOffered = true
    answer({ type: 'publickey', username: server.user, key: key.parsed })
  }

/** Resolves when logged in; rejects when the connection ends first, which it may do without any error. */
const becomeReady = (attempt: Attempt): Promise<void> =>
  new Promise((resolve, reject) => {
    const { client, progress, rules, facts } = attempt
    const fail = (error: unknown): void => reject(connectionFailure(error, progress, rules.known.length > 0, facts))
    client.on('handshake', () => {
      progress.handshakeDone = true
    })
    client.on('banner', (text: string) => {
      progress.banner = `${progress.banner}${text}\n`.slice(0, MAX_BANNER)
    })
    client.on('ready', () => {
      progress.ready = true
      resolve()
    })
    // Permanent, never `once`: a second error may follow the first, and an unheard one ends the process.
    client.on('error', fail)
    client.on('close', () => fail(null))
    client.on('end', () => fail(null))
  })

const begin = (attempt: Attempt): Promise<void> => {
  const { client, socket, options, rules, server } = attempt
  const ready = becomeReady(attempt)
  client.connect({
    sock: socket as never,
    username: server.user,
    readyTimeout: 0,
    keepaliveInterval: options.deadlines.keepaliveMs,
    keepaliveCountMax: KEEPALIVE_MISSES,
    algorithms: algorithmsFor(rules.known.map(typeOfHostKey)),
    hostVerifier: verifyHostKey(attempt),
    authHandler: authenticateOnce(attempt) as never,
  })
  watchGreeting(attempt)
  return ready
}

const logIn = (attempt: Attempt): Promise<void> => {
  const { options, facts } = attempt
  const ms = options.deadlines.handshakeMs
  return withDeadline(begin(attempt), {
    clock: options.clock,
    ms,
    signal: options.signal,
    onTimeout: () => new JobError('ssh_timeout', `no SSH login within ${ms} ms`, facts),
    onAbort: () => new JobError('cancelled', 'called off while logging in', facts),
  })
}

/** One promise for the end of the connection, so that no exec ever waits for a peer that is gone. */
const lossOf = ({ client, socket, facts }: Attempt): Promise<never> => {
  const lost = new Promise<never>((_resolve, reject) => {
    const fail = (cause?: unknown): void =>
      reject(new JobError('connection_lost', 'the connection ended before the result arrived', facts, { cause }))
    client.on('error', fail)
    client.on('close', fail)
    socket.on('close', () => fail())
  })
  lost.catch(() => undefined) // Nobody may be waiting for a result when the connection ends.
  return lost
}

const closer = ({ client, socket, options }: Attempt): (() => Promise<void>) => {
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  return async () => {
    if (socket.destroyed) return
    client.end()
    const timer = new AbortController()
    await Promise.race([closed, options.clock.sleep(CLOSE_GRACE_MS, timer.signal).catch(() => undefined)])
    timer.abort()
    socket.destroy()
    await closed
  }
}

const sessionOf = (attempt: Attempt): SshSession => {
  const { client, socket, server, options, progress, facts } = attempt
  const context: ExecContext = {
    client,
    clock: options.clock,
    channelTimeoutMs: options.deadlines.channelMs,
    facts,
    channels: { opened: 0 },
    lost: lossOf(attempt),
    destroy: () => socket.destroy(),
  }
  return {
    user: server.user,
    host: server.host,
    port: server.port,
    serverSoftware: progress.serverSoftware ?? '',
    hostKey: progress.presentedKey ?? '',
    exec: (command, stdin, execOptions) => execOn(context, command, stdin, execOptions),
    close: closer(attempt),
  }
}

/**
 * Connects and logs in with one key, once.
 *
 * Fails with `ssh_unreachable`, `ssh_turned_away`, `ssh_timeout`, `ssh_handshake_failed`, `host_key_unknown`,
 * `host_key_changed`, `ssh_auth_failed`, `ssh_mfa_required`, `ssh_account_expired`, `ssh_nologin`, `ssh_account_denied`
 * or `cancelled`, and leaves no socket behind.
 */
export const connectSsh = async (
  server: SshServer,
  key: LoginKey,
  rules: HostKeyRules,
  options: SshOptions,
): Promise<SshSession> => {
  const facts = { user: server.user, host: server.host, port: server.port, fingerprint: key.fingerprint }
  const tcp = { clock: options.clock, timeoutMs: options.deadlines.tcpMs, signal: options.signal }
  const socket = await openSocket(server.port, server.addresses, tcp, facts)
  const attempt = { client: new ssh2.Client(), socket, progress: startProgress(), server, key, rules, options, facts }
  try {
    await logIn(attempt)
    return sessionOf(attempt)
  } catch (error) {
    socket.destroy()
    throw error
  }
}
