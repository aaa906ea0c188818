import type { Clock } from '../observability/clock.ts'
import type { Logger } from '../observability/log.ts'
import type { RegisterRequest, RegisterResponse } from '../protocol/calls.ts'
import type { ApiClient } from './api-client.ts'
import type { Outage } from './outage.ts'
import type { Skew } from './skew.ts'

/** What the control plane told us about itself. */
export type Registered = RegisterResponse

export interface Registration {
  /** The newest registration, also while a new one is being made; null before the first. */
  current(): Registered | null
  /** Registers if there is no valid registration; one call however many loops ask. Throws an ApiError. */
  ensure(signal: AbortSignal): Promise<Registered>
  /** Registers even though there is a registration: asks whether this version is welcome again. */
  renew(signal: AbortSignal): Promise<Registered>
  /** The control plane no longer knows this instance: the next `ensure` registers again. */
  forget(): void
}

export interface RegistrationDeps {
  readonly api: ApiClient
  readonly clock: Clock
  readonly log: Logger
  readonly outage: Outage
  readonly skew: Skew
  readonly request: RegisterRequest
  readonly onRegistered: (registered: Registered) => void
}

/** Half of the round trip is taken as the time that the answer travelled. */
const register = async (deps: RegistrationDeps, signal: AbortSignal): Promise<Registered> => {
  const sentAt = deps.clock.monotonic()
  const response = await deps.api.register(deps.request, signal)
  deps.skew.observe(response.serverTime, (sentAt + deps.clock.monotonic()) / 2)
  deps.outage.succeeded('register')
  deps.log.info(
    {
      event: 'registered',
      controlPlaneId: response.controlPlaneId,
      protocol: response.protocol,
      skewMs: deps.skew.ms(),
    },
    'registered with the control plane',
  )
  return response
}

export const createRegistration = (deps: RegistrationDeps): Registration => {
  let known: Registered | null = null
  let valid = false
  let running: Promise<Registered> | null = null

  const run = async (signal: AbortSignal): Promise<Registered> => {
    try {
      known = await register(deps, signal)
      valid = true
      deps.onRegistered(known)
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
  }
}
