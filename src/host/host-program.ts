import type { Grant } from '../protocol/grant.ts'
import type { Policy } from '../protocol/integration.ts'
import type { HostLink } from './link.ts'

/** What every run needs: who asks, when, and how long it may take. */
export interface RunContext {
  readonly controlPlaneId: string
  /** Milliseconds since 1970 by the connector's clock, corrected by its skew to the control plane. */
  readonly now: number
  readonly timeoutMs: number
  readonly signal?: AbortSignal
}

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
  readonly changed: boolean
}

// ensurePresent(link: HostLink, context: RunContext, request: EnsureRequest): Promise<PresentReply>
// ensureAbsent(link, context, request): Promise<AbsentResult>      (AbsentResult of src/protocol/results.ts)
// inspect(link, context): Promise<InspectResult minus hostKeys of the transport>   (InspectResult of the protocol)
export type { HostLink }
