import { type ErrorCode, type ErrorFacts, JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'

/**
 * A circuit breaker for each server: one that can't be reached fails at once for a while, instead of holding a slot
 * for as long as every deadline takes.
 *
 *     closed --(3 failures of the transport in a row)--> open --(15 s, doubling to 10 min, jittered)--> half-open
 *     half-open --(one probe gets through)--> closed          half-open --(the probe fails)--> open, for longer
 *
 * Only what the network or sshd's front door does counts. A refused key, a changed host key or a program that fails
 * says that the server is there.
 */
export type BreakerState = 'closed' | 'open' | 'half_open'

export interface BreakerEvent {
  readonly server: string
  readonly state: BreakerState
  readonly failures: number
  /** Until the next probe; 0 where it is not open. */
  readonly waitMs: number
  readonly code: ErrorCode | null
}

export interface Breakers {
  /**
   * Throws `circuit_open` while the circuit is open, or while somebody else's probe is under way. With `urgent` (the end
   * of access) it is open for 15 s at most.
   */
  admit(server: string, facts: ErrorFacts, urgent: boolean): void
  succeeded(server: string): void
  /** Of any kind: what does not count closes nothing and opens nothing, but ends a probe. */
  failed(server: string, error: unknown): void
  state(server: string): BreakerState
  /** Those that are not closed. */
  list(): { readonly server: string; readonly state: BreakerState }[]
}

export const FAILURES_TO_OPEN = 3
export const FIRST_WAIT_MS = 15_000
export const LONGEST_WAIT_MS = 600_000
/** A probe whose outcome nobody told is forgotten after this. */
const PROBE_MS = 60_000
/** A fleet that is out of reach altogether is remembered whole; what failed before it, and never since, is not. */
const MOST_SERVERS = 20_000

const TRANSPORT: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'ssh_unreachable',
  'ssh_turned_away',
  'ssh_penalised',
  'ssh_timeout',
  'ssh_handshake_failed',
  'connection_lost',
  'jump_failed',
])

export const isTransportFailure = (error: unknown): error is JobError =>
  error instanceof JobError && TRANSPORT.has(error.code)

interface Circuit {
  failures: number
  /** By the monotonic clock; 0 while it is closed. */
  opensAt: number
  openedAt: number
  probeUntil: number
  code: ErrorCode | null
}

export interface BreakerOptions {
  readonly clock: Clock
  /** From 0 to below 1. */
  readonly random: () => number
  readonly onChange?: (event: BreakerEvent) => void
}

export const createBreakers = ({ clock, random, onChange }: BreakerOptions): Breakers => {
  const circuits = new Map<string, Circuit>()

  const stateOf = (circuit: Circuit | undefined): BreakerState => {
    if (circuit === undefined || circuit.failures < FAILURES_TO_OPEN) return 'closed'
    return clock.monotonic() < circuit.opensAt ? 'open' : 'half_open'
  }
  const tell = (server: string, circuit: Circuit, state: BreakerState): void => {
    const waitMs = state === 'open' ? Math.max(0, Math.round(circuit.opensAt - clock.monotonic())) : 0
    onChange?.({ server, state, failures: circuit.failures, waitMs, code: circuit.code })
  }
  const open = (server: string, circuit: Circuit): void => {
    const doubled = FIRST_WAIT_MS * 2 ** Math.min(circuit.failures - FAILURES_TO_OPEN, 10)
    // Jittered downwards by up to a third, so that servers that went together do not come back together.
    const waitMs = Math.min(LONGEST_WAIT_MS, doubled) * (1 - random() / 3)
    circuit.openedAt = clock.monotonic()
    circuit.opensAt = circuit.openedAt + waitMs
    tell(server, circuit, 'open')
  }
  const refuse = (circuit: Circuit, facts: ErrorFacts): never => {
    const seconds = Math.max(1, Math.ceil((circuit.opensAt - clock.monotonic()) / 1000))
    const message = `${circuit.failures} failures in a row, the last one ${circuit.code}; tried again in ${seconds} s`
    throw new JobError('circuit_open', message, facts)
  }

  return {
    admit: (server, facts, urgent) => {
      const circuit = circuits.get(server)
      if (circuit === undefined || stateOf(circuit) === 'closed') return
      const now = clock.monotonic()
      if (now < circuit.probeUntil) refuse(circuit, facts)
      const due = urgent ? Math.min(circuit.opensAt, circuit.openedAt + FIRST_WAIT_MS) : circuit.opensAt
      if (now < due) refuse(circuit, facts)
      circuit.probeUntil = now + PROBE_MS
      tell(server, circuit, 'half_open')
    },
    succeeded: (server) => {
      const circuit = circuits.get(server)
      if (circuit === undefined) return
      circuits.delete(server)
      if (circuit.failures >= FAILURES_TO_OPEN) tell(server, { ...circuit, failures: 0, code: null }, 'closed')
    },
    failed: (server, error) => {
      const circuit = circuits.get(server)
      if (circuit !== undefined) circuit.probeUntil = 0
      if (!isTransportFailure(error)) return
      const counted = circuit ?? { failures: 0, opensAt: 0, openedAt: 0, probeUntil: 0, code: null }
      counted.failures++
      counted.code = error.code
      circuits.delete(server)
      circuits.set(server, counted)
      const [oldest] = circuits.keys()
      if (circuits.size > MOST_SERVERS && oldest !== undefined) circuits.delete(oldest)
      if (counted.failures >= FAILURES_TO_OPEN) open(server, counted)
    },
    state: (server) => stateOf(circuits.get(server)),
    list: () =>
      [...circuits]
        .map(([server, circuit]) => ({ server, state: stateOf(circuit) }))
        .filter(({ state }) => state !== 'closed'),
  }
}
