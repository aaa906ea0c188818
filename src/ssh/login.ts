import { type ErrorFacts, JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import type { LoginKey } from '../secrets/private-key.ts'
import type { Breakers } from './breaker.ts'
import type { LoginOutcome, Ramp } from './ramp.ts'
import type { Offer, RefusedKeys, Said } from './refused-keys.ts'
import { factsOf, type Hop, keysOf, type Way } from './route.ts'
import { connectSsh, type SshDeadlines, type SshSession } from './session.ts'
import type { NextFirst, TakenKeys } from './taken-keys.ts'
import type { KeyOffer } from './trouble.ts'

export interface LoginOptions {
  readonly signal?: AbortSignal
  /** The end of access: it waits for no circuit longer than 15 s. */
  readonly urgent?: boolean
  /** A person asked, perhaps after mending the server: a key that it refused is offered once more. */
  readonly offerAgain?: boolean
  /** To find out whether the server takes the next key by now, where the secret holds one: it is offered before the others. */
  readonly nextFirst?: boolean
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
  readonly takenKeys: TakenKeys
  readonly connect?: typeof connectSsh
}

/** Turned away in a crowd is no reason to fail: sshd drops at random there, and nothing has begun. */
const TURNED_AWAY_TRIES = 5
const TURNED_AWAY_PAUSE_MS = 150

const offerOf = ({ offerAgain, urgent }: LoginOptions): Offer => {
  if (offerAgain === true) return 'person'
  return urgent === true ? 'end_of_access' : 'job'
}

const nextFirstOf = ({ nextFirst, offerAgain }: LoginOptions): NextFirst => {
  if (nextFirst !== true) return 'no'
  return offerAgain === true ? 'person' : 'job'
}

const isTurnedAway = (error: unknown): boolean => error instanceof JobError && error.code === 'ssh_turned_away'

const isKeyRefused = (error: unknown): boolean => error instanceof JobError && error.code === 'ssh_auth_failed'

const NEVER_THERE: ReadonlySet<string> = new Set(['ssh_unreachable', 'ssh_penalised', 'jump_failed', 'jump_forbidden'])

/** Whether the login failed for the keys: each that was offered was refused, if only by the end of the connection. */
const isRefusal = (offers: readonly KeyOffer[]): boolean =>
  offers.length > 0 && offers.every(({ answer }) => answer === 'refused' || answer === 'hung_up')

/** How a login went as sshd counts it. */
const outcomeOf = (error: unknown): LoginOutcome => {
  const code = error instanceof JobError ? error.code : ''
  if (code === 'ssh_turned_away') return 'turned_away'
  if (isKeyRefused(error)) return 'key_refused'
  return NEVER_THERE.has(code) ? 'unreachable' : 'left'
}

/** Whoever wanted it does not want it any more. */
export const called = (facts: ErrorFacts): JobError => new JobError('cancelled', 'called off while connecting', facts)

/** One connection, with what it is made by. */
interface Attempt {
  readonly way: Way
  readonly through: SshSession | null
  readonly options: LoginOptions
  readonly keys: readonly LoginKey[]
  readonly onOffers: (offers: readonly KeyOffer[]) => void
}

/**
 * Makes one connection, to the last hop of a way, through that of the hop before it: only where the server has not refused
 * the key and its circuit lets us, as slowly as its sshd bears, and again where it turned us away in a crowd.
 */
export type LogIn = (way: Way, through: SshSession | null, options: LoginOptions) => Promise<SshSession>

export const createLogIn = ({ connect = connectSsh, ...deps }: LoginDeps): LogIn => {
  const { clock, ramp, breakers, refusedKeys, takenKeys } = deps

  const logIn = async ({ way, through, options, keys, onOffers }: Attempt): Promise<SshSession> => {
    const { hop, name } = way
    const { server } = hop
    const here = `${server.addresses[0]?.address ?? server.host} ${server.port}`
    const left = await ramp.enter(through === null ? here : name, options.signal)
    let how: LoginOutcome = 'unreachable'
    try {
      const session = await connect(server, keys, hop.rules, {
        clock,
        deadlines: deps.deadlines,
        signal: options.signal,
        onHostKey: (line) => options.onHostKey?.(hop, line),
        onOffers,
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

  const logInPatiently = async (attempt: Attempt): Promise<SshSession> => {
    for (let tries = 1; ; tries++) {
      try {
        return await logIn(attempt)
      } catch (error) {
        if (!isTurnedAway(error) || tries >= TURNED_AWAY_TRIES) throw error
        const pause = TURNED_AWAY_PAUSE_MS * 2 ** (tries - 1) * (0.5 + deps.random())
        await clock.sleep(pause, attempt.options.signal)
      }
    }
  }

  /**
   * Of one that only hung up nothing is known for sure, as long as there is another to offer: the server may have had
   * trouble of its own, and to offer that key no more would be to stay out, until somebody comes, for a moment's trouble.
   */
  const remember = ({ hop, name }: Way, offers: readonly KeyOffer[], isLastWord: boolean): void => {
    const refused = offers.filter(({ answer }) => isLastWord || answer === 'refused')
    const said = new Map(
      refused.map(({ fingerprint, answer }): [string, Said] => [
        fingerprint,
        answer === 'refused' ? answer : 'hung_up',
      ]),
    )
    if (said.size > 0) refusedKeys.remember(name, hop.key.version, said)
  }

  /**
   * With the keys in their order, in one connection; in one more with those that are left where the server ended the first
   * at a key that it refused, before it had seen the others.
   */
  const logInWith = async (
    attempt: Omit<Attempt, 'onOffers'>,
    before: readonly KeyOffer[] = [],
  ): Promise<SshSession> => {
    const { way, keys } = attempt
    let offers: readonly KeyOffer[] = []
    const onOffers = (told: readonly KeyOffer[]): void => {
      offers = told
    }
    try {
      return await logInPatiently({ ...attempt, onOffers })
    } catch (error) {
      if (!isRefusal(offers)) throw error
      const isOnly = keysOf(way.hop).length === 1
      if (isOnly && !isKeyRefused(error)) throw error
      const left = keys.slice(offers.length)
      const last = offers.at(-1)
      remember(way, [...before, ...offers], left.length === 0 && last?.answer === 'hung_up')
      if (left.length > 0 && last !== undefined) {
        takenKeys.hungUpAt(way.name, way.hop.key.version, last.fingerprint)
        return await logInWith({ ...attempt, keys: left }, offers)
      }
      throw isOnly ? error : new JobError('ssh_auth_failed', 'the server refused both keys', factsOf(way.hop))
    }
  }

  return async (way, through, options) => {
    const { hop, name } = way
    const facts = factsOf(hop)
    const { version } = hop.key
    const ordered = takenKeys.order(name, version, keysOf(hop), nextFirstOf(options))
    const keys = refusedKeys.offerable(name, { version, keys: ordered }, facts, offerOf(options))
    breakers.admit(name, facts, options.urgent === true)
    try {
      const session = await logInWith({ way, through, options, keys })
      refusedKeys.forget(name)
      if (ordered.length > 1) takenKeys.took(name, session.loginKey)
      return session
    } catch (error) {
      breakers.failed(name, error)
      throw options.signal?.aborted ? called(facts) : error
    }
  }
}
