import type { Job, JobRef } from '../../protocol/job.ts'
import type { Tx } from '../store/store.ts'
import { attempt } from './attempt.ts'
import { REDELIVER_AFTER_MS } from './back-off.ts'
import type { Deps } from './deps.ts'
import { grantOnServer, protocolIntegration, protocolServer } from './grants.ts'
import { integrationsOf } from './integration-cache.ts'
import { isPending } from './integration-status.ts'
import type { InstanceRecord, JobRecord } from './model.ts'
import { settle } from './settle.ts'

/** However many slots a connector claims to have, one answer stays of a size that can be sent and repeated. */
const MAX_JOBS_PER_CLAIM = 200

/**
 * What was handed to this instance but is not in its hands: the response got lost. The lease is cut short instead of
 * ended, because the report may be under way.
 */
const cutMissingLeases = async (
  tx: Tx,
  deps: Deps,
  instance: InstanceRecord,
  inFlight: readonly JobRef[],
): Promise<void> => {
  const held = new Set(inFlight.map(({ jobId, epoch }) => `${jobId}:${epoch}`))
  const cutTo = deps.clock.now() + REDELIVER_AFTER_MS
  for (const job of await tx.jobs.leasedBy(instance.id)) {
    if (!job.lease || held.has(`${job.id}:${job.epoch}`) || job.lease.until <= cutTo) continue
    await tx.jobs.put({ ...job, lease: { ...job.lease, until: cutTo } })
  }
}

type Content = Pick<Extract<Job, { kind: 'ensure' }>, 'kind' | 'integration' | 'server' | 'grant'>
type Look = Pick<Extract<Job, { kind: 'inspect' }>, 'kind' | 'integration' | 'server' | 'asked'>

const ensureContent = async (tx: Tx, deps: Deps, job: JobRecord): Promise<Content | null> => {
  const grant = job.grantId === null ? null : await tx.grants.get(job.grantId)
  if (!grant || grant.closed || grant.generation !== job.generation) return null
  if (grant.state === 'present' && grant.notAfter <= deps.clock.now()) return null
  if (!grant.handedOut) await tx.grants.put({ ...grant, handedOut: true })
  return { kind: 'ensure', integration: grant.integration, ...(await grantOnServer(tx, grant)) }
}

type FindIntegration = ReturnType<typeof integrationsOf>

const inspectContent = async (tx: Tx, find: FindIntegration, job: JobRecord): Promise<Look | null> => {
  const server = await tx.servers.get(job.serverId)
  if (!server || server.removedAt !== null) return null
  const integration = await find(server.integrationId)
  if (!integration || integration.deletedAt !== null) return null
  const asked = isPending(server)
  return { kind: 'inspect', integration: protocolIntegration(integration), server: protocolServer(server), asked }
}

const handOut = async (
  tx: Tx,
  deps: Deps,
  find: FindIntegration,
  instance: InstanceRecord,
  job: JobRecord,
): Promise<Job | null> => {
  const content = job.kind === 'ensure' ? await ensureContent(tx, deps, job) : await inspectContent(tx, find, job)
  if (!content) {
    await tx.jobs.put({ ...job, open: false })
    return null
  }
  const now = deps.clock.now()
  const { leaseTtlMs } = deps.knobs
  const epoch = await tx.epoch.next()
  const attempt = job.attempt + 1
  const lease = { instanceId: instance.id, handedAt: now, until: now + leaseTtlMs }
  await tx.jobs.put({ ...job, epoch, attempt, lease, progress: null })
  return { jobId: job.id, epoch, attempt, leaseTtlMs, ...content }
}

/** Hands out what this instance may do now; an empty list means: wait. */
export const claimJobs = async (
  tx: Tx,
  deps: Deps,
  instance: InstanceRecord,
  ask: { freeSlots: number; inFlight: readonly JobRef[] },
): Promise<readonly Job[]> => {
  await cutMissingLeases(tx, deps, instance, ask.inFlight)
  await settle(tx, deps)
  const limit = Math.min(ask.freeSlots, MAX_JOBS_PER_CLAIM)
  if (limit === 0) return []
  const now = deps.clock.now()
  const ready = await tx.jobs.claimable({ connectorId: instance.connectorId, now, limit })
  const jobs: Job[] = []
  const find = integrationsOf(tx)
  for (const job of ready) {
    const handed = await attempt(tx, deps, job.id, () => handOut(tx, deps, find, instance, job))
    if (handed.ok && handed.value) jobs.push(handed.value)
  }
  return jobs
}
