/**
 * Where the control plane keeps what it knows.
 *
 * What lives here: the `Store` interface in the domain's terms, and one implementation per database behind it. What
 * may enter: records of `access/model.ts`, whole. What never does: decisions. The conformance suite in
 * `test/control-plane/store-conformance.ts` runs on every implementation.
 *
 * Everything happens inside a transaction, and a transaction sees its own writes. `write` transactions of one store
 * run one after another (SQLite: by a queue; PostgreSQL: by serializable isolation and retry), so that a decision
 * never rests on what another one is just changing. Never open a transaction inside another one.
 */
import type {
  AuditEntry,
  ConnectorRecord,
  GrantPhase,
  GrantRecord,
  InstanceRecord,
  IntegrationRecord,
  JobRecord,
  OutcomeRecord,
  RequestRecord,
  ServerRecord,
  TokenRecord,
  UserRecord,
} from '../access/model.ts'

/** The database itself can't go on (disk full, file gone): nothing of the transaction is to be had. */
export class StoreFailure extends Error {
  constructor(cause: unknown) {
    super(cause instanceof Error ? cause.message : 'the store failed', { cause })
    this.name = 'StoreFailure'
  }
}

export interface Store {
  /** All of `work`'s writes are kept, durably, or none is. */
  write<T>(work: (tx: Tx) => Promise<T>): Promise<T>
  /** A consistent view. Writing in it is an error. */
  read<T>(work: (tx: Tx) => Promise<T>): Promise<T>
  close(): Promise<void>
}

/** `after` is the `next` of the page before. */
export interface PageQuery {
  readonly limit: number
  readonly after: number | null
  readonly newestFirst?: boolean
}

export interface Page<T> {
  readonly items: readonly T[]
  readonly next: number | null
}

interface Records<T> {
  get(id: string): Promise<T | null>
  /** Adds the record, or replaces the one with its id. */
  put(record: T): Promise<void>
}

export interface Tx {
  /** Within the transaction: all of `work`'s writes stay, or, when it throws, none. A {@link StoreFailure} ends the whole. */
  savepoint<T>(work: () => Promise<T>): Promise<T>
  readonly meta: {
    get(name: string): Promise<string | null>
    set(name: string, value: string): Promise<void>
  }
  readonly epoch: {
    /** Never returns the same number twice, nor a lower one. */
    next(): Promise<number>
  }
  readonly users: Records<UserRecord> & {
    byEmail(email: string): Promise<UserRecord | null>
    byLogin(login: string): Promise<UserRecord | null>
    page(query: PageQuery): Promise<Page<UserRecord>>
    count(): Promise<number>
  }
  readonly tokens: Records<TokenRecord> & {
    byHash(hash: string): Promise<TokenRecord | null>
    byConnector(connectorId: string): Promise<readonly TokenRecord[]>
    byUser(userId: string): Promise<readonly TokenRecord[]>
    byLabel(label: string): Promise<readonly TokenRecord[]>
    remove(id: string): Promise<void>
  }
  readonly connectors: Records<ConnectorRecord> & {
    page(query: PageQuery): Promise<Page<ConnectorRecord>>
    remove(id: string): Promise<void>
  }
  readonly instances: Records<InstanceRecord> & {
    byConnector(connectorId: string): Promise<readonly InstanceRecord[]>
    /** Not heard of since `before`. */
    silentSince(before: number): Promise<readonly InstanceRecord[]>
    /** Heard of after `at`, which only a clock that was set back since can say. */
    seenAfter(at: number): Promise<readonly InstanceRecord[]>
    remove(id: string): Promise<void>
  }
  readonly integrations: Records<IntegrationRecord> & {
    /** Without the deleted ones. */
    page(query: PageQuery): Promise<Page<IntegrationRecord>>
    byName(name: string): Promise<IntegrationRecord | null>
    byConnector(connectorId: string): Promise<readonly IntegrationRecord[]>
  }
  readonly servers: Records<ServerRecord> & {
    /** In the order of the integration, removed ones included. */
    byIntegration(integrationId: string): Promise<readonly ServerRecord[]>
    dueForInspection(now: number): Promise<readonly ServerRecord[]>
    /** To be inspected later than `at`. */
    inspectedAfter(at: number): Promise<readonly ServerRecord[]>
  }
  readonly requests: Records<RequestRecord> & {
    page(query: PageQuery & { userId?: string }): Promise<Page<RequestRecord>>
  }
  readonly grants: Records<GrantRecord> & {
    byRequest(requestId: string): Promise<readonly GrantRecord[]>
    byServer(serverId: string): Promise<readonly GrantRecord[]>
    page(query: PageQuery & { userId?: string; phase?: GrantPhase }): Promise<Page<GrantRecord>>
    /** Not closed: should be present, or its end is not confirmed. */
    openOfConnector(query: PageQuery & { connectorId: string }): Promise<Page<GrantRecord>>
    /** Ids of those that should be present, and whose time is over. */
    overdue(now: number): Promise<readonly string[]>
  }
  readonly jobs: Records<JobRecord> & {
    openOfGrant(grantId: string): Promise<readonly JobRecord[]>
    openInspection(serverId: string): Promise<JobRecord | null>
    leasedBy(instanceId: string): Promise<readonly JobRecord[]>
    /** Leases that ended by themselves. */
    lapsed(now: number): Promise<readonly JobRecord[]>
    /** Leases that end later than `at`. */
    leasedAfter(at: number): Promise<readonly JobRecord[]>
    /** Open, not leased, and due later than `at`. */
    dueAfter(at: number): Promise<readonly JobRecord[]>
    /** Forgets up to `limit` inspections that ended and were last due before `before`, and their outcomes. */
    forgetInspections(before: number, limit: number): Promise<void>
    /** What this connector may do now: open, due, not leased, on servers where nobody else works; one per server, most urgent first. */
    claimable(query: { connectorId: string; now: number; limit: number }): Promise<readonly JobRecord[]>
  }
  readonly outcomes: {
    get(subject: string, counter: number): Promise<OutcomeRecord | null>
    add(outcome: OutcomeRecord): Promise<void>
  }
  readonly audit: {
    add(entry: AuditEntry): Promise<void>
    page(query: PageQuery): Promise<Page<AuditEntry>>
  }
  /** The next time after `now` at which something is due by itself: a job, a lease's or grant's end, an inspection. */
  nextDue(now: number): Promise<number | null>
}
