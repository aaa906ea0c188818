import type { Tx } from '../store/store.ts'
import { attempt } from './attempt.ts'
import { SYSTEM } from './audit.ts'
import { INSPECT_EVERY_MS, KEEP_INSPECTIONS_MS, LONGEST_WAIT_MS, nextInspection } from './back-off.ts'
import type { Deps } from './deps.ts'
import { endGrant } from './grants.ts'
import { integrationsOf } from './integration-cache.ts'
import { freeLease, openInspectJob } from './jobs.ts'

/** How long an instance may be silent before it counts as gone. */
export const instanceTtlMs = (deps: Deps): number => 3 * deps.knobs.renewEveryMs

const endOverdue = async (tx: Tx, deps: Deps, id: string): Promise<void> => {
  const grant = await tx.grants.get(id)
  if (grant) await endGrant(tx, deps, grant, 'expired', SYSTEM)
}

const endOverdueGrants = async (tx: Tx, deps: Deps, now: number): Promise<void> => {
  for (const id of await tx.grants.overdue(now)) await attempt(tx, deps, id, () => endOverdue(tx, deps, id))
}

const freeLapsedLeases = async (tx: Tx, deps: Deps, now: number): Promise<void> => {
  for (const job of await tx.jobs.lapsed(now)) {
    deps.log.warn(
      { event: 'lease_lapsed', job: job.id, epoch: job.epoch, instance: job.lease?.instanceId },
      'lease lapsed',
    )
    await freeLease(tx, job)
  }
}

const forgetSilentInstances = async (tx: Tx, deps: Deps, now: number): Promise<void> => {
  for (const instance of await tx.instances.silentSince(now - instanceTtlMs(deps))) {
    for (const job of await tx.jobs.leasedBy(instance.id)) await freeLease(tx, job)
    await tx.instances.remove(instance.id)
    deps.log.info({ event: 'instance_gone', instance: instance.id, connector: instance.connectorId }, 'instance gone')
  }
}

/**
 * After a clock was set back, what was written before lies too far ahead: a lease would hold its server, and a failed
 * end would wait, for as long as the step was. Nothing is ever put further ahead than this.
 */
const pullBack = async (tx: Tx, deps: Deps, now: number): Promise<void> => {
  const { leaseTtlMs } = deps.knobs
  for (const job of await tx.jobs.leasedAfter(now + leaseTtlMs)) {
    if (!job.lease) continue
    const { instanceId, handedAt } = job.lease
    const lease = { instanceId, handedAt: Math.min(handedAt, now), until: now + leaseTtlMs }
    await tx.jobs.put({ ...job, dueAt: Math.min(job.dueAt, now), lease })
  }
  for (const job of await tx.jobs.dueAfter(now + LONGEST_WAIT_MS)) {
    await tx.jobs.put({ ...job, dueAt: now + LONGEST_WAIT_MS })
  }
  for (const instance of await tx.instances.seenAfter(now)) await tx.instances.put({ ...instance, lastSeenAt: now })
  for (const server of await tx.servers.inspectedAfter(now + INSPECT_EVERY_MS)) {
    await tx.servers.put({ ...server, nextInspectAt: now + INSPECT_EVERY_MS })
  }
}

const inspectByTheHour = async (tx: Tx, deps: Deps, now: number): Promise<void> => {
  const integration = integrationsOf(tx)
  for (const server of await tx.servers.dueForInspection(now)) {
    await attempt(tx, deps, server.id, async () => {
      await tx.servers.put({ ...server, nextInspectAt: nextInspection(deps.random, server.nextInspectAt, now) })
      const its = await integration(server.integrationId)
      if (its && its.disabled !== true) await openInspectJob(tx, deps, server, its.connectorId)
    })
  }
}

/** Each run forgets a few, so that none takes long. */
const FORGET_AT_ONCE = 200

/**
 * Does everything that the passing of time demands. It runs when something is due, and before every claim, so that
 * what is handed out is right even where the timer is late. Each grant ends by itself: one that can't must never keep
 * the others from it.
 */
export const settle = async (tx: Tx, deps: Deps): Promise<void> => {
  const now = deps.clock.now()
  await pullBack(tx, deps, now)
  await endOverdueGrants(tx, deps, now)
  await freeLapsedLeases(tx, deps, now)
  await forgetSilentInstances(tx, deps, now)
  await inspectByTheHour(tx, deps, now)
  await tx.jobs.forgetInspections(now - KEEP_INSPECTIONS_MS, FORGET_AT_ONCE)
}
