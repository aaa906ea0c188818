import type { Random } from '../observability/random.ts'
import type { Grant } from '../protocol/grant.ts'
import type { Policy } from '../protocol/integration.ts'

/** What every run needs: who asks, when, and how long it may take. */
export interface RunContext {
  readonly controlPlaneId: string
  /** Milliseconds since 1970 by the connector's clock, corrected by its skew to the control plane. */
  readonly now: number
  readonly timeoutMs: number
  readonly signal?: AbortSignal
  /** Random bytes; for the nonce of the run and the id of a ledger that does not exist yet. */
  readonly random: Random
}

/** How the program became root: not at all, or by one of two tools. */
export type BecomingRoot = 'root' | 'sudo' | 'doas'

export interface EnsureRequest {
  readonly grant: Grant
  readonly policy: Policy
  readonly epoch: number
  /** `type base64` of the per-grant authority; null where the job says `issue: false`, and for `absent`. */
  readonly authority: string | null
}

export interface PresentReply {
  readonly hostId: string
  readonly uid: number
  readonly createdLogin: boolean
  readonly groupsAdded: readonly string[]
  readonly trust: 'root_file' | 'home'
  readonly onHostExpiry: 'full' | 'logins'
  readonly assurance: 'observed' | 'root_was_possible'
  readonly changed: boolean
}
