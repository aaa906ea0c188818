import { z } from 'zod'
import { Grant } from './grant.ts'
import { Integration, Server } from './integration.ts'
import { Job, JobHead, JobRef } from './job.ts'
import { CloudProvider, Counter, DurationMs, IdOnServer, Instant, SecretStoreType } from './primitives.ts'
import { AbsentResult, JobFailure, JobResult } from './results.ts'

/** The protocol versions that this code speaks. */
export const PROTOCOL = { min: 1, max: 1 } as const

/** At most this many reports in one call, unless the control plane's knob says otherwise. */
export const REPORT_BATCH = 100

/** Chosen by whoever deploys the connector; `APONO_CONNECTOR_ID`. */
export const ConnectorId = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/, 'must match ^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$')

const InstanceId = z.string().min(8).max(64)

export const RegisterRequest = z
  .object({
    connectorId: ConnectorId,
    /** New at every start, so that a restarted connector never conflicts with its own ghost. */
    instanceId: InstanceId,
    version: z.string().min(1).max(64),
    protocol: z.object({ min: z.int().min(1), max: z.int().min(1) }),
    cloud: z.object({
      provider: CloudProvider,
      region: z.string().max(128).optional(),
      accountId: z.string().max(128).optional(),
    }),
    secretStores: z.array(SecretStoreType),
    slots: z.int().min(1).max(10_000),
  })
  .meta({ id: 'RegisterRequest' })
export type RegisterRequest = z.infer<typeof RegisterRequest>

export const Knobs = z
  .object({
    claimWaitMs: DurationMs,
    leaseTtlMs: DurationMs,
    renewEveryMs: DurationMs,
    jobMaxMs: DurationMs,
    resyncEveryMs: DurationMs,
    reportBatch: z.int().min(1).max(1000),
  })
  .meta({ id: 'Knobs' })
export type Knobs = z.infer<typeof Knobs>

export const DEFAULT_KNOBS: Knobs = {
  claimWaitMs: 25_000,
  leaseTtlMs: 60_000,
  renewEveryMs: 20_000,
  jobMaxMs: 300_000,
  resyncEveryMs: 600_000,
  reportBatch: REPORT_BATCH,
}

export const RegisterResponse = z
  .object({
    serverTime: Instant,
    protocol: z.int().min(1),
    /** Stable for the life of the control plane's data; half of the key of every ledger record. */
    controlPlaneId: IdOnServer,
    knobs: Knobs,
  })
  .meta({ id: 'RegisterResponse' })
export type RegisterResponse = z.infer<typeof RegisterResponse>

export const ClaimRequest = z
  .object({
    instanceId: InstanceId,
    freeSlots: z.int().min(0).max(10_000),
    waitMs: DurationMs,
    inFlight: z.array(JobRef).max(10_000),
  })
  .meta({ id: 'ClaimRequest' })
export type ClaimRequest = z.infer<typeof ClaimRequest>

export const ClaimResponse = z.object({ serverTime: Instant, jobs: z.array(Job) }).meta({ id: 'ClaimResponse' })
export type ClaimResponse = z.infer<typeof ClaimResponse>

/** What a connector reads first: each job is then parsed by itself, so that one it can't read never hides the others. */
export const ClaimEnvelope = z.object({ serverTime: Instant, jobs: z.array(JobHead.loose()) })

export const RenewRequest = z
  .object({ instanceId: InstanceId, inFlight: z.array(JobRef).max(10_000) })
  .meta({ id: 'RenewRequest' })
export type RenewRequest = z.infer<typeof RenewRequest>

export const RenewResponse = z
  .object({
    serverTime: Instant,
    results: z.array(JobRef.extend({ status: z.enum(['ok', 'cancel', 'lost']) })),
  })
  .meta({ id: 'RenewResponse' })
export type RenewResponse = z.infer<typeof RenewResponse>

const GrantRef = z.object({ grantId: IdOnServer, generation: Counter })
const At = z.object({ at: Instant })

export const ProgressReport = JobRef.extend(At.shape).extend({
  outcome: z.literal('progress'),
  seq: z.int().min(1),
  step: z.string().min(1).max(64),
})
export const SucceededReport = JobRef.extend(At.shape).extend({ outcome: z.literal('succeeded'), result: JobResult })
export const FailedReport = JobRef.extend(At.shape).extend({ outcome: z.literal('failed'), error: JobFailure })
export const ExpiredReport = GrantRef.extend(At.shape).extend({
  outcome: z.literal('expired'),
  result: AbsentResult,
})

export const Report = z
  .discriminatedUnion('outcome', [ProgressReport, SucceededReport, FailedReport, ExpiredReport])
  .meta({ id: 'Report' })
export type Report = z.infer<typeof Report>

export const ReportRequest = z
  .object({ instanceId: InstanceId, reports: z.array(Report).min(1).max(1000) })
  .meta({ id: 'ReportRequest' })
export type ReportRequest = z.infer<typeof ReportRequest>

const ReportStatus = z.enum(['accepted', 'duplicate', 'stale'])
export const ReportResponse = z
  .object({
    results: z.array(z.union([JobRef.extend({ status: ReportStatus }), GrantRef.extend({ status: ReportStatus })])),
  })
  .meta({ id: 'ReportResponse' })
export type ReportResponse = z.infer<typeof ReportResponse>

/** With all that its end needs. */
export const KnownGrant = z.object({ integration: Integration, server: Server, grant: Grant })
export type KnownGrant = z.infer<typeof KnownGrant>

export const GrantsResponse = z
  .object({
    serverTime: Instant,
    grants: z.array(KnownGrant),
    next: z.string().min(1).max(512).nullable(),
  })
  .meta({ id: 'GrantsResponse' })
export type GrantsResponse = z.infer<typeof GrantsResponse>

export const DeregisterRequest = z
  .object({ instanceId: InstanceId, release: z.array(JobRef).max(10_000) })
  .meta({ id: 'DeregisterRequest' })
export type DeregisterRequest = z.infer<typeof DeregisterRequest>

/** RFC 9457, with the stable `code` that clients decide on. */
export const ProblemDetails = z
  .object({
    type: z.string().default('about:blank'),
    title: z.string(),
    status: z.int(),
    code: z.string(),
    detail: z.string().optional(),
    /** Every problem of a bad body, each named by its path. */
    errors: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
  })
  .meta({ id: 'ProblemDetails' })
export type ProblemDetails = z.infer<typeof ProblemDetails>
