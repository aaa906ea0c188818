import { SocketAddress } from 'node:net'
import { isDeepStrictEqual } from 'node:util'
import { type ErrorFacts, JobError } from '../host/errors.ts'
import type { HostLink } from '../host/link.ts'
import type { Breakers } from './breaker.ts'
import { untilAborted } from './deadline.ts'
import { createGate, createGates, type Gate } from './gate.ts'
import { type HostKeyRules, judgeHostKey } from './host-keys.ts'
import { called, createLogIn, type LoginDeps, type LoginOptions } from './login.ts'
import { before, factsOf, type Hop, namesOf, nextKeyOf, placeOf, type Route, type Way, wayOf } from './route.ts'
import type { SshSession } from './session.ts'
import type { CheckedAddress } from './socket.ts'

/**
 * Connections that jobs share. Invariants:
 *
 * - At most one connection to a server, and while it is being made everybody waits for that one. A server is a user at a
 *   host and port by way of its jump hosts, each of which is an entry of its own.
 * - A connection is used only by whom it was made for: with another version of the key, a host key that is not accepted any
 *   more, or an address that the guard did not admit this time, it is ended first, and a new one is made. That holds for
 *   every jump host on the way as well.
 * - Who is to find out about the next key of a secret uses no connection by the current one that was made without it being
 *   offered, or too long ago. What is made for them is never found unfit again, whatever was found out.
 * - An entry that somebody uses (a command, or a server behind it) is never closed for being old or one too many.
 * - Nothing of a command is kept with the connection when the command is over.
 * - Who changes a server has it alone, in the order in which they came: a second program would only wait for the first
 *   one's lock there.
 */
export interface Pool {
  /** Runs `work` on the connection of the route's last hop. Fails as `connectSsh` does, with `circuit_open`, or as `work`. */
  use<T>(route: Route, options: UseOptions, work: (link: HostLink) => Promise<T>): Promise<T>
  stats(): PoolStats
  /** Closes everything; nothing can be used any more. */
  close(): Promise<void>
}

export interface UseOptions extends LoginOptions {
  /** The work changes the server. */
  readonly alone?: boolean
  /** Told, before the work begins, the fingerprint of the key that each hop was logged in to with. */
  readonly onLogin?: (hop: Hop, fingerprint: string) => void
}

/**
 * Made where the next key was offered first: when at the earliest, by the monotonic clock. A jump host's connection bears all
 * that is behind it, so it is not ended again for each of the servers there that a person has looked at in one go.
 */
interface Since {
  readonly target: number
  readonly jumps: number
}

interface Call extends UseOptions {
  readonly since: Since
}

export interface PoolStats {
  readonly open: number
  readonly connecting: number
  readonly inUse: number
  /** Servers and jump hosts that are left alone, or due to be tried. */
  readonly circuits: ReturnType<Breakers['list']>
}

export interface PoolLimits {
  /** Before a connection that nobody uses is closed. Default 300,000. */
  readonly idleMs?: number
  /** Connections; beyond, the one that was not used for longest is closed. Default 1,000. */
  readonly most?: number
  /** Commands at once on one connection; sshd allows 10 by default (MaxSessions). Default 8. */
  readonly channels?: number
}

interface Entry {
  readonly name: string
  readonly keyVersion: string
  /** When it was begun, where that was to find out about the next key; by the monotonic clock. */
  readonly nextOfferedAt: number
  /** What it was made by: of each hop, first hop first. */
  readonly rules: readonly HostKeyRules[]
  readonly connected: Promise<SshSession>
  readonly giveUp: AbortController
  readonly commands: Gate
  session: SshSession | null
  /** The jump host's connection that this one goes through. */
  through: Entry | null
  users: number
  /** It is used to the end by who uses it, and then closed; until it is gone no other takes its place. */
  retiring: boolean
  /** A command has ended the connection, or was told of its end. */
  broken: boolean
  /** By the monotonic clock; null while somebody uses it. */
  idleSince: number | null
  /** Whoever waits for the connection is told which key is shown. */
  readonly watchers: Set<NonNullable<UseOptions['onHostKey']>>
  /** Resolves when the connection is gone, or never came about. */
  readonly gone: Promise<void>
}

interface Held {
  readonly entry: Entry
  readonly session: SshSession
}

const rulesOf = ({ hops }: Way): HostKeyRules[] => hops.map(({ rules }) => rules)

/** A jump host's trouble is told as such: the server behind it may be well. */
const ofJumpHost = (error: unknown, { hop }: Way): unknown =>
  error instanceof JobError && error.code !== 'cancelled' && !error.message.startsWith('jump host ')
    ? new JobError(error.code, `jump host ${placeOf(hop)}: ${error.message}`, factsOf(hop), { cause: error })
    : error

/** sshd may still count a session whose end it has told us. */
const SESSION_PAUSE_MS = 50

/** Where it never let us open one, it may still be that it is just opening its only one for somebody else. */
const isRefusedForOthers = (error: unknown, inside: number): boolean =>
  error instanceof JobError &&
  (error.code === 'ssh_channel_refused' || (error.code === 'ssh_no_sessions' && inside > 1))

/** Null through a jump host, which resolves by itself. */
const isAdmitted = (connectedTo: string | null, admitted: readonly CheckedAddress[]): boolean =>
  connectedTo === null || admitted.some((one) => canonical(one) === connectedTo)

/** As the socket writes it: `2001:db8::5` for `2001:DB8:0::5`. */
const canonical = ({ address, family }: CheckedAddress): string =>
  family === 4 ? address : new SocketAddress({ address: address.split('%', 1)[0] ?? '', family: 'ipv6' }).address

/** How long the answer to an offer of the next key holds, for a look that nobody asked for. */
const ANSWER_HOLDS_MS = 1_800_000
/** And, of a jump host, for one that a person asked for. */
const JUMP_ANSWER_HOLDS_MS = 60_000

const sinceOf = ({ nextFirst, offerAgain }: UseOptions, now: number): Since => {
  if (nextFirst !== true) return { target: -Infinity, jumps: -Infinity }
  if (offerAgain === true) return { target: now, jumps: now - JUMP_ANSWER_HOLDS_MS }
  return { target: now - ANSWER_HOLDS_MS, jumps: now - ANSWER_HOLDS_MS }
}

const isRefusedChannel = (error: unknown): boolean =>
  error instanceof JobError && (error.code === 'ssh_channel_refused' || error.code === 'ssh_no_sessions')

const ofJump = ({ jumps }: Since): Since => ({ target: jumps, jumps })

const asJump = (options: Call): Call => ({ ...options, since: ofJump(options.since) })

const isRefusedHostKey = (error: unknown): boolean =>
  error instanceof JobError && /^host_key_(?:changed|unknown|revoked)$/.test(error.code)

export const createPool = (deps: LoginDeps, limits: PoolLimits = {}): Pool => {
  const { clock, breakers } = deps
  const logIn = createLogIn(deps)
  const { idleMs = 300_000, most = 1000, channels = 8 } = limits
  /** By name, the one that was not used for longest first. */
  const entries = new Map<string, Entry>()
  const turns = createGates(1)
  const stopped = new AbortController()
  let closed = false
  let sweeping = false

  // ---------------------------------------------------------------- entries

  const forget = (entry: Entry): void => {
    if (entries.get(entry.name) === entry) entries.delete(entry.name)
  }

  /** Whoever still uses it loses it. */
  const end = (entry: Entry): void => {
    entry.retiring = true
    entry.idleSince = null
    entry.giveUp.abort()
    entry.session?.close().catch(() => undefined)
  }

  /** With what goes through it: a connection that nobody uses would keep its jump host's for as long as it is kept itself. */
  const retire = (entry: Entry): void => {
    entry.retiring = true
    for (const behind of entries.values()) if (behind.through === entry) retire(behind)
    if (entry.users === 0) end(entry)
  }

  const isRetiring = (entry: Entry): boolean => entry.retiring || (entry.through !== null && isRetiring(entry.through))

  const makeRoom = (): void => {
    let tooMany = [...entries.values()].filter(({ retiring }) => !retiring).length - most + 1
    for (const entry of entries.values()) {
      if (tooMany <= 0) return
      if (entry.users > 0 || entry.retiring) continue
      tooMany--
      end(entry)
    }
  }

  const begin = (way: Way, options: Call): Entry => {
    makeRoom()
    const giveUp = new AbortController()
    const watchers: Entry['watchers'] = new Set()
    const { promise: gone, resolve: isGone } = Promise.withResolvers<void>()
    // Whoever waits may go away; the attempt goes on for the others, until nobody is left.
    const shared: Call = {
      ...options,
      signal: giveUp.signal,
      onHostKey: (hop, line) => {
        for (const watcher of watchers) watcher(hop, line)
      },
    }
    const connected = connectWay(way, shared, (through) => {
      entry.through = through
    })
    const entry: Entry = {
      name: way.name,
      keyVersion: way.hop.key.version,
      nextOfferedAt: options.nextFirst === true ? clock.monotonic() : -Infinity,
      rules: rulesOf(way),
      connected,
      giveUp,
      commands: createGate(channels),
      session: null,
      through: null,
      users: 0,
      retiring: false,
      broken: false,
      idleSince: null,
      watchers,
      gone,
    }
    entries.set(way.name, entry)
    const over = (): void => {
      forget(entry)
      isGone()
    }
    connected.then((session) => {
      entry.session = session
      session.onClosed(over)
      // Ended in the moment in which it came about, when there was nothing to close yet.
      if (giveUp.signal.aborted) end(entry)
    }, over)
    return entry
  }

  /** Behind a jump host: the host's own entry is in use for as long as the connection through it lives. */
  const connectWay = async (way: Way, options: Call, goesThrough: (entry: Entry) => void): Promise<SshSession> => {
    const jump = before(way)
    if (jump === null) return await logIn(way, null, options)
    const { entry, session } = await hold(jump, asJump(options)).catch((error: unknown) => {
      throw ofJumpHost(error, jump)
    })
    goesThrough(entry)
    try {
      const inner = await logIn(way, session, options)
      breakers.succeeded(entry.name)
      inner.onClosed(() => release(entry))
      return inner
    } catch (error) {
      release(entry)
      throw error
    }
  }

  const fitsHop = (entry: Entry, hop: Hop): boolean => {
    const { session } = entry
    if (entry.keyVersion !== hop.key.version) return false
    if (session === null) return true
    return isAdmitted(session.address, hop.server.addresses) && judgeHostKey(session.hostKey, hop.rules) === 'accepted'
  }

  /** Whether it tells about the next key what the caller wants to know: that it is taken, or that it was not, lately. */
  const tellsNext = ({ session, nextOfferedAt }: Entry, hop: Hop, { target }: Since): boolean => {
    const next = nextKeyOf(hop)
    if (next === undefined || session === null || session.loginKey === next.fingerprint) return true
    return nextOfferedAt >= target
  }

  const fits = (entry: Entry, way: Way, since: Since): boolean => {
    const jump = before(way)
    if (!fitsHop(entry, way.hop) || !tellsNext(entry, way.hop, since)) return false
    return entry.through === null || jump === null || fits(entry.through, jump, ofJump(since))
  }

  /** For who comes to a connection that is there: what each hop has shown, and which key it took, first hop first. */
  const tellKeys = (entry: Entry, way: Way, options: UseOptions): void => {
    const jump = before(way)
    if (entry.through !== null && jump !== null) tellKeys(entry.through, jump, options)
    if (entry.session === null) return
    options.onHostKey?.(way.hop, entry.session.hostKey)
    options.onLogin?.(way.hop, entry.session.loginKey)
  }

  const release = (entry: Entry): void => {
    entry.users--
    if (entry.users > 0) return
    if (entry.session === null || closed || isRetiring(entry)) {
      end(entry)
      return
    }
    entry.idleSince = clock.monotonic()
    if (!sweeping) sweep().catch(() => undefined)
  }

  /** One timer for all: the memory of thousands would be more than that of what they watch. */
  const sweep = async (): Promise<void> => {
    sweeping = true
    for (;;) {
      const idle = [...entries.values()].filter(({ idleSince }) => idleSince !== null)
      if (idle.length === 0) break
      const now = clock.monotonic()
      const dueAt = ({ idleSince }: Entry): number => (idleSince ?? now) + idleMs
      const waits = idle.map((entry) => dueAt(entry) - now).filter((wait) => wait > 0)
      for (const entry of idle) if (dueAt(entry) <= now) end(entry)
      const wait = Math.min(...waits)
      if (Number.isFinite(wait)) await clock.sleep(wait, stopped.signal)
    }
    sweeping = false
  }

  const take = (entry: Entry): void => {
    entry.users++
    entry.idleSince = null
    entries.delete(entry.name)
    entries.set(entry.name, entry)
  }

  const waitFor = <T>(work: Promise<T>, { signal }: UseOptions, facts: ErrorFacts): Promise<T> =>
    untilAborted(work, signal, () => called(facts))

  /** The entry of the last hop, in use by the caller, and connected. */
  const hold = async (way: Way, options: Call): Promise<Held> => {
    for (;;) {
      if (closed) throw new JobError('cancelled', 'the connector is stopping', factsOf(way.hop))
      const found = entries.get(way.name)
      if (found === undefined || (!isRetiring(found) && fits(found, way, options.since))) {
        const held = await join(found ?? begin(way, options), way, options)
        if (held !== null) return held
        // What was made for this caller is for this caller: to go on would be to go on for ever.
        if (found === undefined) throw new JobError('internal_error', 'a new connection is not what was asked for')
        continue
      }
      retire(found)
      // Never two connections to one server: whoever still uses the old one ends first.
      await waitFor(found.gone, options, factsOf(way.hop))
    }
  }

  /** Null where the connection, once made, is not one for this caller, or was refused by rules that are not the caller's. */
  const join = async (entry: Entry, way: Way, options: Call): Promise<Held | null> => {
    take(entry)
    const { onHostKey } = options
    if (onHostKey !== undefined) entry.watchers.add(onHostKey)
    try {
      const session = await waitFor(entry.connected, options, factsOf(way.hop))
      if (fits(entry, way, options.since)) {
        tellKeys(entry, way, options)
        return { entry, session }
      }
      release(entry)
      return null
    } catch (error) {
      release(entry)
      // By the rules of whoever it was made for, which say nothing about what others believe.
      if (isRefusedHostKey(error) && !isDeepStrictEqual(entry.rules, rulesOf(way))) return null
      throw error
    } finally {
      if (onHostKey !== undefined) entry.watchers.delete(onHostKey)
    }
  }

  // ---------------------------------------------------------------- commands

  /** Whoever is connected as: the lock that counts is the machine's. */
  const turn = (way: Way, options: UseOptions): Promise<() => void> =>
    turns.enter(way.hops.map(placeOf).join('>'), options.signal).catch(() => {
      throw called(factsOf(way.hop))
    })

  /** One more session than the server allows: it allows as many as are open, and the next one waits for one of those. */
  const learnLimit = (commands: Gate): void => commands.setLimit(Math.max(1, commands.inside() - 1))

  /**
   * The end of a connection is one failure of the server, however many commands were on it; and none where it was we who
   * ended it, because the first of them was called off.
   */
  const judge = (entry: Entry, error: unknown): void => {
    if (!entry.broken) breakers.failed(entry.name, error)
    entry.broken ||= !isRefusedChannel(error)
  }

  const linkOf = ({ session, entry }: Held): HostLink => ({
    user: session.user,
    host: session.host,
    port: session.port,
    serverSoftware: session.serverSoftware,
    hostKey: session.hostKey,
    exec: async (command, stdin, options) => {
      const facts = { user: session.user, host: session.host, port: session.port }
      const deadline = clock.monotonic() + deps.deadlines.channelMs
      for (;;) {
        const leave = await entry.commands.enter(options.signal).catch((error: unknown) => {
          throw options.signal?.aborted ? called(facts) : error
        })
        try {
          const outcome = await session.exec(command, stdin, options)
          // Not at the login: a server may let us in and die of every command.
          breakers.succeeded(entry.name)
          return outcome
        } catch (error) {
          judge(entry, error)
          if (!isRefusedForOthers(error, entry.commands.inside()) || clock.monotonic() > deadline) throw error
          learnLimit(entry.commands)
        } finally {
          leave()
        }
        await clock.sleep(SESSION_PAUSE_MS, options.signal)
      }
    },
  })

  return {
    use: async (route, options, work) => {
      const way = wayOf([...route.jumps, route.target], namesOf(route))
      const done = options.alone === true ? await turn(way, options) : () => undefined
      try {
        const held = await hold(way, { ...options, since: sinceOf(options, clock.monotonic()) })
        try {
          return await work(linkOf(held))
        } finally {
          release(held.entry)
        }
      } finally {
        done()
      }
    },
    stats: () => {
      const all = [...entries.values()]
      return {
        open: all.filter(({ session, retiring }) => session !== null && !retiring).length,
        connecting: all.filter(({ session, retiring }) => session === null && !retiring).length,
        inUse: all.filter(({ users }) => users > 0).length,
        circuits: breakers.list(),
      }
    },
    close: async () => {
      closed = true
      stopped.abort()
      const all = [...entries.values()].reverse()
      for (const entry of all) end(entry)
      await Promise.all(all.map(({ gone }) => gone))
    },
  }
}
