import type { Clock } from '../observability/clock.ts'
import { createGate, type Gate } from './gate.ts'

/**
 * How many logins may be under way at once at one sshd, and in all.
 *
 * sshd drops connections that have not logged in yet once there are too many of them (MaxStartups 10:30:100; for one
 * address or block PerSourceMaxStartups), and a fleet behind one address, or a bastion, is one sshd to that limit. So
 * a place begins with few, gets one more with every login, and half as many when it turns one away.
 *
 * OpenSSH 9.8 and later also bans an address, and with it everybody behind it, for what went wrong: a second for a
 * connection that left without a login (a host key that was not believed, a job that was called off), five for a refused
 * key, and from 15 s on nobody is let in (PerSourcePenalties). So after either, the next one waits a little longer than
 * that, alone.
 */
export interface Ramp {
  /** `place`: of one sshd. Resolves with what says how it went. Rejects with the signal's reason. */
  enter(place: string, signal?: AbortSignal): Promise<(how: LoginOutcome) => void>
  /** For tests and metrics: logins that are under way. */
  underWay(): number
}

export type LoginOutcome = 'logged_in' | 'turned_away' | 'unreachable' | 'left' | 'key_refused'

export interface RampOptions {
  /** At one place at first; 4, below every default of MaxStartups, with room for others. */
  readonly first?: number
  /** At one place at most; 8, still below 10, where sshd starts to drop at random. */
  readonly most?: number
  /** At all places together; 64. A handshake costs about 5 ms of processor time here. */
  readonly inAll?: number
}

/** Penalties of OpenSSH 10.0 and half a second. */
export const PAUSE_MS: Readonly<Partial<Record<LoginOutcome, number>>> = { left: 1500, key_refused: 5500 }

/** Places that nobody connects to are forgotten, with what was learnt of them, when there are more than this. */
const MOST_PLACES = 10_000

interface Place {
  readonly gate: Gate
  /** By the monotonic clock. */
  quietUntil: number
}

export const createRamp = (clock: Clock, { first = 4, most = 8, inAll = 64 }: RampOptions = {}): Ramp => {
  const all = createGate(inAll)
  const places = new Map<string, Place>()

  const find = (name: string): Place => {
    const place = places.get(name) ?? { gate: createGate(first), quietUntil: 0 }
    places.delete(name)
    places.set(name, place)
    for (const [other, { gate }] of places) {
      if (places.size <= MOST_PLACES) break
      if (gate.inside() === 0 && gate.waiting() === 0) places.delete(other)
    }
    return place
  }

  /** Who waits for a place keeps no room that others could use. */
  const enterQuiet = async (place: Place, signal: AbortSignal | undefined): Promise<() => void> => {
    for (;;) {
      const leave = await place.gate.enter(signal)
      const wait = place.quietUntil - clock.monotonic()
      if (wait <= 0) return leave
      try {
        await clock.sleep(wait, signal)
      } finally {
        leave()
      }
    }
  }

  const learn = (place: Place, how: LoginOutcome): void => {
    const { gate } = place
    if (how === 'logged_in') gate.setLimit(Math.min(most, gate.limit() + 1))
    if (how === 'turned_away') gate.setLimit(Math.floor(gate.limit() / 2))
    const pause = PAUSE_MS[how]
    if (pause === undefined) return
    gate.setLimit(1)
    place.quietUntil = Math.max(place.quietUntil, clock.monotonic()) + pause
  }

  return {
    enter: async (name, signal) => {
      const place = find(name)
      const leave = await enterQuiet(place, signal)
      const leaveAll = await all.enter(signal).catch((error: unknown) => {
        leave()
        throw error
      })
      return (how) => {
        learn(place, how)
        leaveAll()
        leave()
      }
    },
    underWay: () => all.inside(),
  }
}
