import type { Clock } from '../observability/clock.ts'
import type { Logger } from '../observability/log.ts'
import type { RegisterRequest, RegisterResponse } from '../protocol/calls.ts'
import type { ApiClient } from './api-client.ts'
import type { Outage } from './outage.ts'

/** What the control plane told us about itself, and how far its clock is from ours. */
export interface Registered extends RegisterResponse {
  /** Server time minus ours, milliseconds. */
  readonly skewMs: number
}

export interface Registration {
  /** The newest registration, also while a new one is being made; null before the first. */
  current(): Registered | null
  /** Registers if there is no valid registration; one call however many loops ask. Throws an ApiError. */
  ensure(signal: AbortSignal): Promise<Registered>
  /** Registers even though there is a registration: asks whether this version is welcome again. */
  renew(signal: AbortSignal): Promise<Registered>
  /** The control plane no longer knows this instance: the next `ensure` registers again. */
  forget(): void
  /**
   * The control plane's clock, as it was when our monotonic clock said `at`. Every answer corrects the skew: a clock that
   * is set right an hour after the start must not leave certificates an hour off.
   */
  observe(serverTime: string, at: number): void
  /** Our clock, corrected by what the control plane's says. Milliseconds since 1970. */
  now(): number
}

export interface RegistrationDeps {
  readonly api: ApiClient
  readonly clock: Clock
  readonly log: Logger
  readonly outage: Outage
  readonly request: RegisterRequest
  readonly onRegistered: () => void
}

/** Half of the round trip is taken as the time that the answer travelled. */
const register = async (deps: RegistrationDeps, signal: AbortSignal): Promise<Registered> => {
  const sentAt = deps.clock.monotonic()
  const response = await deps.api.register(deps.request, signal)
  const travelMs = (deps.clock.monotonic() - sentAt) / 2
  const skewMs = Math.round(Date.parse(response.serverTime) + travelMs - deps.clock.now())
  deps.outage.succeeded('register')
  deps.log.info(
    { event: 'registered', controlPlaneId: response.controlPlaneId, protocol: response.protocol, skewMs },
    'registered with the control plane',
  )
  return { ...response, skewMs }
}

export const createRegistration = (deps: RegistrationDeps): Registration => {
  let known: Registered | null = null
  let valid = false
  let running: Promise<Registered> | null = null
  let skewMs = 0

  const run = async (signal: AbortSignal): Promise<Registered> => {
    try {
      known = await register(deps, signal)
      skewMs = known.skewMs
      valid = true
      deps.onRegistered()
      return known
    } finally {
      running = null
    }
  }

  return {
    current: () => known,
    ensure: async (signal) => {
      if (known !== null && valid) return known
      running ??= run(signal)
      return await running
    },
    renew: async (signal) => {
      running ??= run(signal)
      return await running
    },
    forget: () => {
      valid = false
    },
    observe: (serverTime, at) => {
      const agoMs = deps.clock.monotonic() - at
      skewMs = Math.round(Date.parse(serverTime) + agoMs - deps.clock.now())
    },
    now: () => deps.clock.now() + skewMs,
  }
}
