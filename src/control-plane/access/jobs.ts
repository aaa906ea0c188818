import type { JobRef } from '../../protocol/job.ts'
import type { Tx } from '../store/store.ts'
import { type Deps, newId } from './deps.ts'
import { pathOf } from './jump-list.ts'
import { type GrantRecord, type InstanceRecord, type JobRecord, PRIORITY, type ServerRecord } from './model.ts'

/** Two integrations, or two connectors, may name the same machine: they take turns. */
export const serverKey = pathOf

type Fresh = Pick<
  JobRecord,
  'connectorId' | 'serverKey' | 'kind' | 'priority' | 'grantId' | 'generation' | 'notAfter' | 'serverId'
>

const openJob = async (tx: Tx, deps: Deps, job: Fresh, dueAt: number, failures = 0): Promise<void> => {
  const createdAt = deps.clock.now()
  const id = newId('job', deps.random)
  const unused = { open: true, attempt: 0, epoch: 0, lease: null, progress: null }
  await tx.jobs.put({ ...job, ...unused, id, dueAt, failures, createdAt })
}

/** A lease stays as it is: whoever holds it may still be on the server, and is told to stop when it renews. */
export const closeGrantJobs = async (tx: Tx, grantId: string): Promise<void> => {
  for (const job of await tx.jobs.openOfGrant(grantId)) await tx.jobs.put({ ...job, open: false })
}

/** Replaces what was to be done for this grant by what its newest generation wants. */
export const openEnsureJob = async (
  tx: Tx,
  deps: Deps,
  grant: GrantRecord,
  { failures = 0, wait = 0 }: { failures?: number; wait?: number } = {},
): Promise<void> => {
  await closeGrantJobs(tx, grant.id)
  const from = deps.clock.now() + wait
  const job: Fresh = {
    connectorId: grant.connectorId,
    serverKey: serverKey(grant.server),
    kind: 'ensure',
    priority: grant.state === 'absent' ? PRIORITY.absent : PRIORITY.present,
    grantId: grant.id,
    generation: grant.generation,
    notAfter: grant.notAfter,
    serverId: grant.serverId,
  }
  await openJob(tx, deps, job, grant.state === 'present' ? Math.max(from, grant.notBefore) : from, failures)
}

/** At most one open inspection per server; one that waits for its back-off is pulled forward. */
export const openInspectJob = async (tx: Tx, deps: Deps, server: ServerRecord, connectorId: string): Promise<void> => {
  const now = deps.clock.now()
  const open = await tx.jobs.openInspection(server.id)
  const same = open?.connectorId === connectorId && open.serverKey === serverKey(server)
  if (open && same) {
    await tx.jobs.put({ ...open, dueAt: Math.min(open.dueAt, now), failures: 0 })
    return
  }
  if (open) await tx.jobs.put({ ...open, open: false })
  const job = { connectorId, serverKey: serverKey(server), kind: 'inspect', priority: PRIORITY.inspect } as const
  await openJob(tx, deps, { ...job, grantId: null, generation: null, serverId: server.id }, now)
}

export const freeLease = (tx: Tx, job: JobRecord): Promise<void> => tx.jobs.put({ ...job, lease: null })

export type RenewStatus = 'ok' | 'cancel' | 'lost'

/** The lease is measured from now, but the whole hold never exceeds `jobMaxMs`. */
const extended = (deps: Deps, job: JobRecord): JobRecord => {
  if (!job.lease) return job
  const { leaseTtlMs, jobMaxMs } = deps.knobs
  const until = Math.min(deps.clock.now() + leaseTtlMs, job.lease.handedAt + jobMaxMs)
  return { ...job, lease: { ...job.lease, until } }
}

const holds = (job: JobRecord | null, instance: InstanceRecord, ref: JobRef): job is JobRecord =>
  job !== null && job.epoch === ref.epoch && job.lease?.instanceId === instance.id

/** A lease that ended is lost even if nobody else has the job yet: another job may be on that server by now. */
export const renewLease = async (tx: Tx, deps: Deps, instance: InstanceRecord, ref: JobRef): Promise<RenewStatus> => {
  const job = await tx.jobs.get(ref.jobId)
  if (!holds(job, instance, ref)) return 'lost'
  if ((job.lease?.until ?? 0) <= deps.clock.now()) return 'lost'
  if (!job.open) return 'cancel'
  await tx.jobs.put(extended(deps, job))
  return 'ok'
}

export const releaseLease = async (tx: Tx, instance: InstanceRecord, ref: JobRef): Promise<void> => {
  const job = await tx.jobs.get(ref.jobId)
  if (holds(job, instance, ref)) await freeLease(tx, job)
}
