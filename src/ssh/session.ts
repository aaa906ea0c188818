import net from 'node:net'
import type { Duplex } from 'node:stream'
import ssh2, { type Client } from 'ssh2'
import { type ErrorFacts, JobError } from '../host/errors.ts'
import type { HostLink } from '../host/link.ts'
import type { Clock } from '../observability/clock.ts'
import type { LoginKey } from '../secrets/private-key.ts'
import { algorithmsFor } from './algorithms.ts'
import { withDeadline } from './deadline.ts'
import { type ExecContext, execOn } from './exec.ts'
import { asSocket } from './forwarded-socket.ts'
import { type HostKeyRules, hostKeyLine, judgeHostKey, knownTypes } from './host-keys.ts'
import { createLoss, type Loss, orLost } from './loss.ts'
import { type CheckedAddress, openSocket } from './socket.ts'
import { answeredOffers, connectionFailure, type KeyOffer, type Progress, startProgress } from './trouble.ts'

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
  /** From the TCP connection to agreed keys. */
  readonly handshakeMs: number
  /** From there to the accepted login. */
  readonly loginMs: number
  readonly channelMs: number
  /** Without a byte from a command that runs. */
  readonly silenceMs: number
  /** A dead peer is noticed after about `keepaliveMs` × 4, whether a command runs or not. */
  readonly keepaliveMs: number
}

export interface SshOptions {
  readonly clock: Clock
  readonly deadlines: SshDeadlines
  readonly signal?: AbortSignal | undefined
  /** Instead of a TCP connection of our own: through a jump host. */
  readonly openSocket?: () => Promise<Duplex>
  /** Told the key that the server shows, also when it is then refused: the one thing that a report needs of it. */
  readonly onHostKey?: (line: string) => void
  /** Told, when a login has failed, which keys were offered, and what the server said to each. */
  readonly onOffers?: (offers: readonly KeyOffer[]) => void
}

export interface SshSession extends HostLink {
  /** The address that we are connected to; null through a jump host. */
  readonly address: string | null
  /** The fingerprint of the key that it let us in with. */
  readonly loginKey: string
  /** Opens a way through this server to another one, which it resolves and connects to by itself. */
  forward(host: string, port: number, signal?: AbortSignal): Promise<Duplex>
  /** Resolves when the socket is closed; safe to call more than once. */
  close(): Promise<void>
  /** Calls `listener` when the connection is gone, whoever ended it; returns what takes that back. */
  onClosed(listener: () => void): () => void
}

const KEEPALIVE_MISSES = 3
const CLOSE_GRACE_MS = 500
/** Where the identification does not come before it (and a chunk of the socket's) it is not looked for any longer. */
const MAX_GREETING = 16 * 1024
const MAX_BANNER = 16 * 1024

interface Attempt {
  readonly client: Client
  readonly socket: Duplex
  readonly progress: Progress
  readonly server: SshServer
  /** In the order of offering. */
  readonly keys: readonly LoginKey[]
  readonly rules: HostKeyRules
  readonly options: SshOptions
  readonly facts: ErrorFacts
  /** Asked of the socket while it is open: one that was reset has forgotten it. */
  readonly address: string | null
  /** Told when keys are agreed on and the server has proved its own. */
  readonly handshake: { readonly promise: Promise<void>; readonly resolve: () => void }
}

/** The identification is public, but ssh2 keeps it to itself; we own the socket, so we read it there. */
const watchGreeting = ({ socket, progress }: Attempt): void => {
  const onData = (chunk: Buffer): void => {
    progress.greeting += chunk.toString('latin1')
    const found = /^SSH-(?:2\.0|1\.99)-([\x20-\x7e]{1,255})\r?\n/m.exec(progress.greeting)
    if (found !== null) progress.serverSoftware = found[1] ?? ''
    if (found !== null || progress.greeting.length > MAX_GREETING) socket.off('data', onData)
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

/** ssh2 offers the public half first; that it then signs is the only way in which it lets us know that the key is wanted. */
const tellingKey = ({ parsed }: LoginKey, onWanted: () => void): LoginKey['parsed'] =>
  Object.create(parsed, {
    sign: {
      value: (...given: Parameters<LoginKey['parsed']['sign']>) => {
        onWanted()
        return parsed.sign(...given)
      },
    },
  })

/**
 * Each key once and nothing else, ever; ssh2 asks again after each refusal, and is told no after the last. A key that is
 * refused costs no signature, and in a connection that then logs in sshd counts it as no failure (PerSourcePenalties).
 */
const authenticateOnce =
  ({ progress, keys, server }: Attempt) =>
  (methodsLeft: readonly string[] | null, partialSuccess: boolean | null, next: (method: never) => void): void => {
    const answer = next as (method: unknown) => void
    const last = progress.offers.at(-1)
    if (last !== undefined) {
      progress.partialSuccess = partialSuccess === true
      progress.methodsLeft = methodsLeft ?? []
      if (!progress.partialSuccess) last.answer = 'refused'
    }
    const key = progress.partialSuccess ? undefined : keys[progress.offers.length]
    if (key === undefined) {
      answer(false)
      return
    }
    const offer: KeyOffer = { fingerprint: key.fingerprint, answer: 'none' }
    progress.offers.push(offer)
    const wanted = (): void => {
      offer.answer = 'wanted'
    }
    answer({ type: 'publickey', username: server.user, key: tellingKey(key, wanted) })
  }

/** Resolves when logged in; rejects when the connection ends first, which it may do without any error. */
const becomeReady = (attempt: Attempt): Promise<void> =>
  new Promise((resolve, reject) => {
    const { client, progress, rules, facts } = attempt
    const fail = (error: unknown): void => {
      if (!progress.ready) reject(connectionFailure(error, progress, rules, facts))
    }
    client.on('handshake', () => {
      progress.handshakeDone = true
      attempt.handshake.resolve()
    })
    client.on('banner', (text: string) => {
      // The end of it: what PAM says comes after the banner, however long that is.
      progress.banner = `${progress.banner}${text}\n`.slice(-MAX_BANNER)
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
    algorithms: algorithmsFor(knownTypes(rules)),
    hostVerifier: verifyHostKey(attempt),
    authHandler: authenticateOnce(attempt) as never,
  })
  watchGreeting(attempt)
  return ready
}

const within = <T>({ options, facts }: Attempt, work: Promise<T>, ms: number, what: string): Promise<T> =>
  withDeadline(work, {
    clock: options.clock,
    ms,
    signal: options.signal,
    onTimeout: () => new JobError('ssh_timeout', `no ${what} within ${ms} ms`, facts),
    onAbort: () => new JobError('cancelled', 'called off while logging in', facts),
  })

const logIn = async (attempt: Attempt): Promise<void> => {
  const { handshakeMs, loginMs } = attempt.options.deadlines
  const ready = begin(attempt)
  await within(attempt, Promise.race([attempt.handshake.promise, ready]), handshakeMs, 'SSH handshake')
  await within(attempt, ready, loginMs, 'SSH login')
}

/**
 * One place for the end of the connection, so that no exec ever waits for a peer that is gone. ssh2 only ends its half
 * after an error, and then pings no more: a peer that keeps the other half open would keep our socket for ever.
 */
const lossOf = ({ client, socket, facts }: Attempt): Loss => {
  const loss = createLoss()
  const lose = (cause?: unknown): void => {
    if (!loss.isLost())
      loss.lose(new JobError('connection_lost', 'the connection ended before the result arrived', facts, { cause }))
    socket.destroy()
  }
  client.on('error', lose)
  client.on('close', () => lose())
  socket.on('close', () => lose())
  return loss
}

const closer = ({ client, socket, options }: Attempt): (() => Promise<void>) => {
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  return async () => {
    if (socket.destroyed) return
    client.end()
    const timer = new AbortController()
    await Promise.race([closed, options.clock.sleep(CLOSE_GRACE_MS, timer.signal).catch(() => undefined)])
    timer.abort('closed')
    socket.destroy()
    await closed
  }
}

/** Why a jump host opens no way: it may not (1), or nobody answers there (2); RFC 4254, 5.1. */
const forwardFailure = (error: Error, host: string, port: number, facts: ErrorFacts): JobError => {
  const forbidden = 'reason' in error && error.reason === 1
  return forbidden
    ? new JobError('jump_forbidden', `the jump host forwards nothing to ${host}:${port}`, facts, { cause: error })
    : new JobError('jump_failed', `the jump host cannot reach ${host}:${port}`, facts, { cause: error })
}

const openForward = ({ client, facts }: Attempt, host: string, port: number): Promise<Duplex> =>
  new Promise((resolve, reject) => {
    const fail = (error: Error): void => reject(forwardFailure(error, host, port, facts))
    try {
      client.forwardOut('127.0.0.1', 0, host, port, (error, channel) => {
        if (error === undefined) resolve(asSocket(channel))
        else fail(error)
      })
    } catch (error) {
      fail(error as Error)
    }
  })

const forwarder =
  (attempt: Attempt, context: ExecContext): SshSession['forward'] =>
  async (host, port, signal) => {
    const ms = attempt.options.deadlines.tcpMs
    const opening = openForward(attempt, host, port)
    try {
      return await withDeadline(orLost(context.loss, opening), {
        clock: attempt.options.clock,
        ms,
        signal,
        onTimeout: () => new JobError('jump_failed', `no way to ${host}:${port} within ${ms} ms`, attempt.facts),
        onAbort: () => new JobError('cancelled', 'called off while connecting', attempt.facts),
      })
    } catch (error) {
      // One that opens when nobody waits any more would stay for as long as the jump host's connection.
      opening.then(
        (socket) => socket.destroy(),
        () => undefined,
      )
      throw error
    }
  }

const sessionOf = (attempt: Attempt): SshSession => {
  const { client, socket, server, options, progress, facts } = attempt
  const context: ExecContext = {
    client,
    clock: options.clock,
    channelTimeoutMs: options.deadlines.channelMs,
    silenceMs: options.deadlines.silenceMs,
    facts,
    channels: { opened: 0 },
    loss: lossOf(attempt),
    destroy: () => socket.destroy(),
  }
  return {
    user: server.user,
    host: server.host,
    port: server.port,
    serverSoftware: progress.serverSoftware ?? '',
    hostKey: progress.presentedKey ?? '',
    address: attempt.address,
    loginKey: progress.offers.at(-1)?.fingerprint ?? '',
    forward: forwarder(attempt, context),
    onClosed: (listener) => context.loss.onLost(listener),
    exec: (command, stdin, execOptions) => execOn(context, command, stdin, execOptions),
    close: closer(attempt),
  }
}

/**
 * Connects once, and logs in with the first of the keys that the server takes.
 *
 * Fails with `ssh_unreachable`, `ssh_turned_away`, `ssh_timeout`, `ssh_handshake_failed`, `host_key_unknown`,
 * `host_key_changed`, `host_key_revoked`, `ssh_auth_failed`, `ssh_mfa_required`, `ssh_account_expired`, `ssh_nologin`, `ssh_account_denied`
 * or `cancelled`, and leaves no socket behind.
 */
export const connectSsh = async (
  server: SshServer,
  keys: readonly LoginKey[],
  rules: HostKeyRules,
  options: SshOptions,
): Promise<SshSession> => {
  const facts = { user: server.user, host: server.host, port: server.port }
  const tcp = { clock: options.clock, timeoutMs: options.deadlines.tcpMs, signal: options.signal }
  const socket = await (options.openSocket?.() ?? openSocket(server.port, server.addresses, tcp, facts))
  const attempt = {
    client: new ssh2.Client(),
    socket,
    progress: startProgress(),
    server,
    keys,
    rules,
    options,
    facts,
    address: socket instanceof net.Socket ? (socket.remoteAddress?.split('%', 1)[0] ?? '') : null,
    handshake: Promise.withResolvers<void>(),
  }
  try {
    await logIn(attempt)
    return sessionOf(attempt)
  } catch (error) {
    options.onOffers?.(answeredOffers(attempt.progress, error))
    socket.destroy()
    throw error
  }
}
