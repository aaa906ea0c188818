import { type ErrorFacts, JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import type { Breakers } from './breaker.ts'
import type { LoginOutcome, Ramp } from './ramp.ts'
import type { Offer, RefusedKeys } from './refused-keys.ts'
import { factsOf, type Hop, type Way } from './route.ts'
import { connectSsh, type SshDeadlines, type SshSession } from './session.ts'

export interface LoginOptions {
  readonly signal?: AbortSignal
  /** The end of access: it waits for no circuit longer than 15 s. */
  readonly urgent?: boolean
  /** A person asked, perhaps after mending the server: a key that it refused is offered once more. */
  readonly offerAgain?: boolean
  /** Told the key that a hop shows, also when it is then refused. */
  readonly onHostKey?: (hop: Hop, line: string) => void
}

export interface LoginDeps {
  readonly clock: Clock
  readonly deadlines: SshDeadlines
  /** From 0 to below 1. */
  readonly random: () => number
  readonly ramp: Ramp
  readonly breakers: Breakers
  readonly refusedKeys: RefusedKeys
  readonly connect?: typeof connectSsh
}

/** Turned away in a crowd is no reason to fail: sshd drops at random there, and nothing has begun. */
const TURNED_AWAY_TRIES = 5
const TURNED_AWAY_PAUSE_MS = 150

const offerOf = ({ offerAgain, urgent }: LoginOptions): Offer => {
  if (offerAgain === true) return 'person'
  return urgent === true ? 'end_of_access' : 'job'
}

const isTurnedAway = (error: unknown): boolean => error instanceof JobError && error.code === 'ssh_turned_away'

const NEVER_THERE: ReadonlySet<string> = new Set(['ssh_unreachable', 'ssh_penalised', 'jump_failed', 'jump_forbidden'])

/** How a login went as sshd counts it. */
const outcomeOf = (error: unknown): LoginOutcome => {
  const code = error instanceof JobError ? error.code : ''
  if (code === 'ssh_turned_away') return 'turned_away'
  if (code === 'ssh_auth_failed') return 'key_refused'
  return NEVER_THERE.has(code) ? 'unreachable' : 'left'
}

/** Whoever wanted it does not want it any more. */
export const called = (facts: ErrorFacts): JobError => new JobError('cancelled', 'called off while connecting', facts)

/**
 * Makes one connection, to the last hop of a way, through that of the hop before it: only where the server has not refused
 * the key and its circuit lets us, as slowly as its sshd bears, and again where it turned us away in a crowd.
 */
export type LogIn = (way: Way, through: SshSession | null, options: LoginOptions) => Promise<SshSession>

export const createLogIn = ({ connect = connectSsh, ...deps }: LoginDeps): LogIn => {
  const { clock, ramp, breakers, refusedKeys } = deps

  const logIn = async ({ hop, name }: Way, through: SshSession | null, options: LoginOptions): Promise<SshSession> => {
    const { server } = hop
    const here = `${server.addresses[0]?.address ?? server.host} ${server.port}`
    const left = await ramp.enter(through === null ? here : name, options.signal)
    let how: LoginOutcome = 'unreachable'
    try {
      const session = await connect(server, hop.key.key, hop.rules, {
        clock,
        deadlines: deps.deadlines,
        signal: options.signal,
        onHostKey: (line) => options.onHostKey?.(hop, line),
        ...(through === null ? {} : { openSocket: () => through.forward(server.host, server.port, options.signal) }),
      })
      how = 'logged_in'
      return session
    } catch (error) {
      how = outcomeOf(error)
      throw error
    } finally {
      left(how)
    }
  }

  const logInPatiently = async (...attempt: Parameters<typeof logIn>): Promise<SshSession> => {
    for (let tries = 1; ; tries++) {
      try {
        return await logIn(...attempt)
      } catch (error) {
        if (!isTurnedAway(error) || tries >= TURNED_AWAY_TRIES) throw error
        const pause = TURNED_AWAY_PAUSE_MS * 2 ** (tries - 1) * (0.5 + deps.random())
        await clock.sleep(pause, attempt[2].signal)
      }
    }
  }

  return async (way, through, options) => {
    const { hop, name } = way
    const facts = factsOf(hop)
    refusedKeys.check(name, hop.key.version, facts, offerOf(options))
    breakers.admit(name, facts, options.urgent === true)
    try {
      const session = await logInPatiently(way, through, options)
      refusedKeys.forget(name)
      return session
    } catch (error) {
      breakers.failed(name, error)
      if (error instanceof JobError && error.code === 'ssh_auth_failed') refusedKeys.remember(name, hop.key.version)
      throw options.signal?.aborted ? called(facts) : error
    }
  }
}
