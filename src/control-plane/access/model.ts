/**
 * The domain of the control plane: who may be on which server until when, and the jobs that make it so.
 *
 * What lives here: records, and the decisions about them (what a grant's end means, which job is next, what a report
 * changes). What may enter: a `Tx` to read and write records with, and the clock, randomness and log of `Deps`. What
 * never does: HTTP, SQL, timers, secrets of servers (those stay with the connector).
 *
 * Times in records are milliseconds since 1970; the protocol's text form is made at the edge.
 */
import type { RegisterRequest } from '../../protocol/calls.ts'
import type { Hop, Integration, SecretReference, Server } from '../../protocol/integration.ts'
import type { AbsentResult, InspectResult, PresentResult } from '../../protocol/results.ts'

export interface UserRecord {
  readonly id: string
  readonly email: string
  /** The Linux login on every server; never changes and is never given to another person. */
  readonly login: string
  readonly role: 'admin' | 'user'
  readonly createdAt: number
}

export interface TokenRecord {
  readonly id: string
  /** SHA-256 in hex. The token itself has 256 random bits, so a slow hash would add nothing. */
  readonly hash: string
  readonly kind: 'user' | 'connector'
  readonly userId: string | null
  /** Null until the first register binds it. */
  readonly connectorId: string | null
  /** Who or what it was made for; one made again under the same label replaces the former. */
  readonly label: string
  readonly createdAt: number
}

export interface ConnectorRecord {
  readonly id: string
  readonly name: string
  readonly version: string
  readonly cloud: RegisterRequest['cloud']
  readonly secretStores: readonly string[]
  /** Null: reserved by a token or an admin, but it never registered. */
  readonly lastSeenAt: number | null
}

/** One running process of a connector. The row is gone when the instance is. */
export interface InstanceRecord {
  readonly id: string
  readonly connectorId: string
  readonly tokenId: string
  readonly version: string
  readonly cloud: RegisterRequest['cloud']
  readonly lastSeenAt: number
}

export interface IntegrationRecord {
  readonly id: string
  readonly name: string
  readonly connectorId: string
  readonly version: number
  readonly secretStore: SecretReference
  readonly userGroups: readonly string[]
  readonly policy: Integration['policy']
  /** As the admin sent it: each value a string. */
  readonly config: Readonly<Record<string, string>>
  /** Members of the vendor's model that we keep and give back but do not act on. */
  readonly extra: Readonly<Record<string, unknown>>
  /** An admin switched it off: nothing new is granted or looked at; what was granted goes on to its end. */
  readonly disabled?: boolean
  readonly createdAt: number
  readonly deletedAt: number | null
}

export interface Failure {
  readonly code: string
  readonly message: string
  readonly hint: string
  /** That the server showed and the connector refused, `type base64`. */
  readonly hostKeys?: readonly string[] | undefined
}

/** A server of an integration: the resource that people ask for. */
export interface ServerRecord {
  readonly id: string
  readonly integrationId: string
  readonly name: string
  readonly host: string
  readonly port: number
  readonly user: string
  readonly tags: Readonly<Record<string, string>>
  /** First hop first; none in records from before there were any. */
  readonly jumps?: readonly Hop[]
  /** What the last result of any job reported; null before the first, or when the address changed. */
  readonly hostId: string | null
  /** Pinned at first use, or by an admin. */
  readonly hostKeys: readonly string[]
  /** Null until the first inspection ended, well or not. */
  readonly inspectedAt: number | null
  /** Somebody asked to look again; it counts as pending while it is later than `inspectedAt`. */
  readonly refreshAt: number
  /** When to inspect by itself. */
  readonly nextInspectAt: number
  readonly inspection: InspectResult | null
  readonly failure: Failure | null
  readonly removedAt: number | null
}

export interface RequestRecord {
  readonly id: string
  readonly userId: string
  readonly entitlements: readonly { serverId: string; permission: string }[]
  readonly durationMs: number
  readonly justification: string | null
  readonly customFields: Readonly<Record<string, string>>
  /** The person's own key, re-serialised; null: the control plane makes one per grant. */
  readonly publicKey: string | null
  readonly decision: 'pending' | 'approved' | 'rejected' | 'withdrawn'
  readonly decidedAt: number | null
  readonly decidedBy: string | null
  readonly createdAt: number
}

export type EndReason = 'expired' | 'revoked' | 'failed'

/** `state`: what was to be brought about. */
export type GrantFailure = Failure & { readonly at: number; readonly state: 'present' | 'absent' }

export interface GrantRecord {
  readonly id: string
  readonly requestId: string
  readonly userId: string
  readonly connectorId: string
  readonly serverId: string
  /** Snapshots: a grant ends on the server that it was made on, whatever became of the integration. */
  readonly integration: Integration
  readonly server: Server
  readonly login: string
  readonly person: string
  readonly groups: readonly string[]
  readonly publicKey: string
  /** Only of a pair that we made, encrypted, until it was shown or the grant ended. */
  readonly sealedPrivateKey: string | null
  readonly keyOrigin: 'person' | 'control_plane'
  readonly generation: number
  readonly state: 'present' | 'absent'
  readonly notBefore: number
  readonly notAfter: number
  /** The latest of any generation: until then the server must remember the end. */
  readonly latestNotAfter: number
  /** Some job of this grant reached a connector, so the server may have something of it. */
  readonly handedOut: boolean
  readonly certificate: { readonly generation: number; readonly text: string; readonly validBefore: number } | null
  readonly present: PresentResult | null
  /** The end that the server is known to hold. */
  readonly confirmedNotAfter: number | null
  readonly hostId: string | null
  readonly end: {
    readonly reason: EndReason
    readonly at: number
    readonly by: string
    /** What access could not be given for: told for as long as the grant is, also when its end is confirmed. */
    readonly failure?: GrantFailure
  } | null
  readonly absent: AbsentResult | null
  readonly closed: { readonly at: number; readonly how: 'confirmed' | 'abandoned' | 'never_handed_out' } | null
  readonly lastFailure: GrantFailure | null
  readonly createdAt: number
}

export interface Lease {
  readonly instanceId: string
  readonly handedAt: number
  readonly until: number
}

/** Lower is handed out first. */
export const PRIORITY = { absent: 0, present: 1, inspect: 2 } as const

/**
 * One thing to do on one server. It is open until a final outcome closes it or newer work replaces it; a lease may
 * outlive that, because whoever holds it may still be on the server.
 */
export interface JobRecord {
  readonly id: string
  readonly connectorId: string
  /** Lower-cased host and port: one job at a time for each. */
  readonly serverKey: string
  readonly kind: 'ensure' | 'inspect'
  readonly priority: number
  readonly grantId: string | null
  readonly generation: number | null
  /** Of the grant, in this generation; missing in jobs of before it was kept. */
  readonly notAfter?: number
  readonly serverId: string
  readonly open: boolean
  readonly dueAt: number
  /** Hand-outs so far. */
  readonly attempt: number
  /** Final failures so far; back-off counts these. */
  readonly failures: number
  /** Of the newest hand-out; 0 before the first. */
  readonly epoch: number
  readonly lease: Lease | null
  readonly progress: { readonly seq: number; readonly step: string } | null
  readonly createdAt: number
}

/** An accepted final outcome; the memory that makes reports idempotent. */
export interface OutcomeRecord {
  /** A job's id, or a grant's for `expired`. */
  readonly subject: string
  /** A job's epoch, or a grant's generation. */
  readonly counter: number
  readonly outcome: 'succeeded' | 'failed' | 'expired'
  readonly at: number
  readonly body: unknown
}

/** Who decided what. Only ever appended to. */
export interface AuditEntry {
  readonly at: number
  readonly actor: string
  readonly action: string
  readonly subject: string
  readonly detail: Readonly<Record<string, unknown>>
}

/** Where a grant is on its way, for lists and people. */
export type GrantPhase = 'granting' | 'active' | 'ending' | 'closed'

export const grantPhase = (grant: GrantRecord): GrantPhase => {
  if (grant.closed) return 'closed'
  if (grant.state === 'absent') return 'ending'
  return grant.present ? 'active' : 'granting'
}
