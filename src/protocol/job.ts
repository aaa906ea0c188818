import { z } from 'zod'
import { Grant } from './grant.ts'
import { Integration, Server } from './integration.ts'
import { AccountName, Counter, DurationMs, Id } from './primitives.ts'

const Envelope = z.object({
  jobId: Id,
  /** From one counter per control plane; rises at every hand-out. */
  epoch: Counter,
  attempt: z.int().min(1),
  leaseTtlMs: DurationMs,
  integration: Integration,
  server: Server,
})

export const EnsureJob = Envelope.extend({ kind: z.literal('ensure'), grant: Grant }).meta({ id: 'EnsureJob' })
export type EnsureJob = z.infer<typeof EnsureJob>

export const InspectJob = Envelope.extend({
  kind: z.literal('inspect'),
  /** A person asked for it, perhaps after mending the server: a key that it refused is offered once more. */
  asked: z.boolean().optional(),
}).meta({ id: 'InspectJob' })
export type InspectJob = z.infer<typeof InspectJob>

export const CleanupJob = Envelope.extend({ kind: z.literal('cleanup'), login: AccountName }).meta({ id: 'CleanupJob' })
export type CleanupJob = z.infer<typeof CleanupJob>

export const Job = z.discriminatedUnion('kind', [EnsureJob, InspectJob, CleanupJob]).meta({ id: 'Job' })
export type Job = z.infer<typeof Job>

/**
 * What a connector reads of a job before it knows whether it understands it. A job that has these and nothing else
 * that fits is still answered (`unsupported_job`, `invalid_grant`, `invalid_job`) instead of being lost.
 */
export const JobHead = z.object({ jobId: Id, epoch: Counter, kind: z.string().min(1).max(64) })
export type JobHead = z.infer<typeof JobHead>

/** A job in somebody's hands: what leases, reports and releases name. */
export const JobRef = z.object({ jobId: Id, epoch: Counter }).meta({ id: 'JobRef' })
export type JobRef = z.infer<typeof JobRef>
