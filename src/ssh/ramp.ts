import { createGate, type Gate } from './gate.ts'

/**
 * How many logins may be under way at once at one address, and in all.
 *
 * sshd drops connections that have not logged in yet once there are too many of them (MaxStartups 10:30:100; for one
 * address or block PerSourceMaxStartups), and a fleet behind one address, or a bastion, is one sshd to that limit. So
 * an address begins with few, gets one more with every login, and half as many when it turns one away.
 */
export interface Ramp {
  /** Resolves with what says how it went. Rejects with the signal's reason. */
  enter(address: string, signal?: AbortSignal): Promise<(how: 'logged_in' | 'turned_away' | 'failed') => void>
  /** For tests and metrics: logins that are under way. */
  underWay(): number
}

export interface RampOptions {
  /** At one address at first; 4, below every default of MaxStartups, with room for others. */
  readonly first?: number
  /** At one address at most; 8, still below 10, where sshd starts to drop at random. */
  readonly most?: number
  /** At all addresses together; 64. A handshake costs about 5 ms of processor time here. */
  readonly inAll?: number
}

/** Addresses that nobody connects to are forgotten, with what was learnt of them, when there are more than this. */
const MOST_ADDRESSES = 10_000

export const createRamp = ({ first = 4, most = 8, inAll = 64 }: RampOptions = {}): Ramp => {
  const all = createGate(inAll)
  const gates = new Map<string, Gate>()

  const gateOf = (address: string): Gate => {
    const gate = gates.get(address) ?? createGate(first)
    gates.delete(address)
    gates.set(address, gate)
    for (const [name, old] of gates) {
      if (gates.size <= MOST_ADDRESSES) break
      if (old.inside() === 0 && old.waiting() === 0) gates.delete(name)
    }
    return gate
  }

  return {
    enter: async (address, signal) => {
      const gate = gateOf(address)
      // The address first: who waits for a slow one must not keep a place that others could use.
      const leave = await gate.enter(signal)
      const leaveAll = await all.enter(signal).catch((error: unknown) => {
        leave()
        throw error
      })
      return (how) => {
        if (how === 'logged_in') gate.setLimit(Math.min(most, gate.limit() + 1))
        if (how === 'turned_away') gate.setLimit(Math.floor(gate.limit() / 2))
        leaveAll()
        leave()
      }
    },
    underWay: () => all.inside(),
  }
}
