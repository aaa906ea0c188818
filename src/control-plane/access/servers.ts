import type { InspectResult } from '../../protocol/results.ts'
import type { Tx } from '../store/store.ts'
import { SYSTEM } from './audit.ts'
import { inspectBackOff, MAX_INSPECT_FAILURES } from './back-off.ts'
import type { Deps } from './deps.ts'
import { auditJumps, pinFirst } from './host-keys.ts'
import { serverKey } from './jobs.ts'
import { pinJumps } from './jump-list.ts'
import type { Failure, JobRecord, ServerRecord } from './model.ts'
import { MAX_HOST_KEYS } from './server-fields.ts'

/**
 * Remembers which machine answers there. Its identity follows what is seen; its host keys are pinned by the first
 * that is seen and change only by an admin's hand.
 */
export const learnMachine = async (
  tx: Tx,
  deps: Deps,
  server: ServerRecord,
  seen: Pick<InspectResult, 'hostId' | 'hostKeys' | 'jumps'>,
): Promise<ServerRecord> => {
  const hostId = seen.hostId ?? server.hostId
  if (server.hostId !== null && hostId !== server.hostId) {
    deps.log.warn(
      { event: 'host_id_changed', server: server.id, was: server.hostId, is: hostId },
      'another machine answers',
    )
  }
  const hostKeys = await pinFirst(tx, deps, server, seen.hostKeys)
  const learnt = { ...server, hostId, hostKeys, jumps: pinJumps(server.jumps ?? [], seen.jumps) }
  await auditJumps(tx, deps, SYSTEM, 'server.host_key_pinned', server, learnt)
  await tx.servers.put(learnt)
  return learnt
}

/** What is kept of a failure that a connector reported. */
export const failureRecord = ({ code, message, hint, hostKeys }: Failure): Failure => ({
  code,
  message,
  hint,
  ...(hostKeys ? { hostKeys: hostKeys.slice(0, MAX_HOST_KEYS) } : {}),
})

const worst = (result: InspectResult): Failure | null => {
  const problem = result.problems.find(({ severity }) => severity === 'error')
  return problem ? { code: problem.code, message: problem.message, hint: problem.hint } : null
}

/** Null: the job was replaced, or its server has moved, so that it says nothing about the machine that is there now. */
const inspectedServer = async (tx: Tx, job: JobRecord): Promise<ServerRecord | null> => {
  const server = await tx.servers.get(job.serverId)
  return job.open && server && serverKey(server) === job.serverKey ? server : null
}

export const inspectionSucceeded = async (tx: Tx, deps: Deps, job: JobRecord, result: InspectResult): Promise<void> => {
  const server = await inspectedServer(tx, job)
  await tx.jobs.put({ ...job, open: false })
  if (!server) return
  const learnt = await learnMachine(tx, deps, server, result)
  await tx.servers.put({ ...learnt, inspection: result, failure: worst(result), inspectedAt: deps.clock.now() })
}

export const inspectionFailed = async (
  tx: Tx,
  deps: Deps,
  job: JobRecord,
  failure: Failure & { retryable: boolean },
): Promise<void> => {
  const server = await inspectedServer(tx, job)
  const now = deps.clock.now()
  const failures = job.failures + 1
  const again = job.open && failure.retryable && failures < MAX_INSPECT_FAILURES
  await tx.jobs.put({ ...job, open: again, failures, dueAt: now + inspectBackOff(failures) })
  if (!server) return
  await tx.servers.put({ ...server, failure: failureRecord(failure), inspectedAt: now })
}
