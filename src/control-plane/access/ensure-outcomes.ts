import type { AbsentResult, JobFailure, PresentResult } from '../../protocol/results.ts'
import type { Tx } from '../store/store.ts'
import { audit, SYSTEM } from './audit.ts'
import { absentBackOff, MAX_PRESENT_FAILURES, presentBackOff } from './back-off.ts'
import type { Deps } from './deps.ts'
import { endGrant, hasGenerationAbove, raiseGeneration, sameMachine } from './grants.ts'
import type { GrantRecord, JobRecord } from './model.ts'
import { failureRecord, learnMachine } from './servers.ts'

/** What may stand in an access detail's shell text later: nothing else ever gets into a record. */
const CERTIFICATE = /^([a-z0-9@.-]+-cert-v01@openssh\.com) ([A-Za-z0-9+/]+={0,2})(?: [A-Za-z0-9_-]*)?$/

/**
 * A ledger may remember more than a restored control plane does, but not much more: a server that was taken over must
 * not be able to use up the generations that the grant's end needs.
 */
const MAX_GENERATION_JUMP = 1000

const learnFrom = async (
  tx: Tx,
  deps: Deps,
  grant: GrantRecord,
  seen: Pick<PresentResult, 'hostId' | 'hostKeys' | 'jumps'>,
): Promise<void> => {
  const server = await tx.servers.get(grant.serverId)
  if (sameMachine(grant, server)) await learnMachine(tx, deps, server, seen)
}

/** A server that shows another key than it should is no matter of one grant only. */
const noteRefusedKey = async (tx: Tx, grant: GrantRecord, failure: JobFailure): Promise<void> => {
  if (!failure.hostKeys?.length) return
  const server = await tx.servers.get(grant.serverId)
  if (sameMachine(grant, server)) await tx.servers.put({ ...server, failure: failureRecord(failure) })
}

/** A connector says when the certificate ends; it never ends later than what was asked for. */
const confirmedEnd = (job: JobRecord, grant: GrantRecord, result: PresentResult): number =>
  Math.min(Date.parse(result.validBefore), job.notAfter ?? grant.notAfter)

const certificateOf = (result: PresentResult, generation: number, validBefore: number): GrantRecord['certificate'] => {
  const match = CERTIFICATE.exec(result.certificate?.trim() ?? '')
  if (!match) return null
  return { generation, text: `${match[1]} ${match[2]}`, validBefore }
}

/** Returns what is wrong with the result, if anything. */
export const presentSucceeded = async (
  tx: Tx,
  deps: Deps,
  job: JobRecord,
  result: PresentResult,
): Promise<string | null> => {
  const grant = await tx.grants.get(job.grantId ?? '')
  if (!grant || job.generation === null) return null
  const generation = job.generation
  const confirmedNotAfter = confirmedEnd(job, grant, result)
  const certificate = certificateOf(result, generation, confirmedNotAfter) ?? grant.certificate
  if (certificate?.generation !== generation && generation === grant.generation) return 'the certificate is missing'
  await tx.jobs.put({ ...job, open: false })
  await learnFrom(tx, deps, grant, result)
  // A revoked grant keeps only what its end needs; a late answer never replaces that of a newer generation.
  const overtaken = generation < (grant.certificate?.generation ?? 0)
  if (grant.end || overtaken) await tx.grants.put({ ...grant, hostId: result.hostId })
  else {
    await tx.grants.put({
      ...grant,
      certificate,
      present: result,
      hostId: result.hostId,
      confirmedNotAfter,
      lastFailure: null,
    })
  }
  return null
}

/** Null, or why this is no proof of an end. */
export const absentSucceeded = async (
  tx: Tx,
  deps: Deps,
  job: JobRecord,
  result: AbsentResult,
): Promise<JobFailure | null> => {
  if (result.processesLeft !== 0) return incomplete(result.processesLeft)
  await closeAbsent(tx, deps, job, result)
  return null
}

const incomplete = (processes: number): JobFailure => ({
  code: 'revoke_incomplete',
  message: `${processes} processes of the person live on`,
  hint: 'On the server: see its log. It is tried again until it is confirmed.',
  retryable: true,
})

const closeAbsent = async (tx: Tx, deps: Deps, job: JobRecord, result: AbsentResult): Promise<void> => {
  await tx.jobs.put({ ...job, open: false })
  const grant = await tx.grants.get(job.grantId ?? '')
  if (!grant || grant.closed) return
  const at = deps.clock.now()
  await learnFrom(tx, deps, grant, { hostId: result.hostId, hostKeys: [] })
  await tx.grants.put({
    ...grant,
    absent: result,
    hostId: result.hostId,
    closed: { at, how: 'confirmed' },
    lastFailure: grant.end?.failure ?? null,
  })
  const { account, sessionsEnded, processesLeft, assurance } = result
  const proof = { account, sessionsEnded, processesLeft, assurance, residue: result.residue.length }
  await audit(tx, deps, SYSTEM, 'grant.end_confirmed', grant.id, proof)
}

/** The pair in the server's ledger, where it is above the one that we sent. */
const recordedAbove = (job: JobRecord, failure: JobFailure): { generation: number; epoch: number } | null => {
  const { recorded } = failure
  if (failure.code !== 'superseded' || !recorded || job.generation === null) return null
  if (recorded.generation > job.generation + MAX_GENERATION_JUMP) return null
  const above =
    recorded.generation > job.generation || (recorded.generation === job.generation && recorded.epoch > job.epoch)
  return above ? recorded : null
}

/** A failure like any other in how long it waits, so that a server can't keep us busy. The epoch needs no raise: the generation decides. */
const goAbove = async (
  tx: Tx,
  deps: Deps,
  job: JobRecord,
  grant: GrantRecord,
  recorded: { generation: number; epoch: number },
): Promise<void> => {
  const failures = job.failures + 1
  const wait = grant.state === 'absent' ? absentBackOff(failures) : presentBackOff(failures)
  deps.log.warn({ event: 'ledger_ahead', grant: grant.id, recorded }, 'a server remembers more than this database')
  await audit(tx, deps, SYSTEM, 'grant.ledger_ahead', grant.id, { recorded })
  await raiseGeneration(tx, deps, grant, {}, { floor: recorded.generation, failures, wait })
}

const retryLater = async (tx: Tx, deps: Deps, job: JobRecord, wait: (failures: number) => number): Promise<void> => {
  const failures = job.failures + 1
  await tx.jobs.put({ ...job, failures, dueAt: deps.clock.now() + wait(failures) })
}

/** The server still has what the generation before gave: that stays, only the longer time is not to be had. */
const keepFormerEnd = async (tx: Tx, deps: Deps, job: JobRecord, grant: GrantRecord): Promise<void> => {
  await tx.jobs.put({ ...job, open: false })
  const notAfter = grant.confirmedNotAfter ?? grant.notAfter
  await tx.grants.put({ ...grant, notAfter })
  await audit(tx, deps, SYSTEM, 'grant.extension_failed', grant.id, { code: grant.lastFailure?.code })
}

const giveUp = async (tx: Tx, deps: Deps, job: JobRecord, grant: GrantRecord, code: string): Promise<void> => {
  if (code === 'expired') await endGrant(tx, deps, grant, 'expired', SYSTEM)
  else if (grant.present) await keepFormerEnd(tx, deps, job, grant)
  else await endGrant(tx, deps, grant, 'failed', SYSTEM)
}

const presentFailed = async (
  tx: Tx,
  deps: Deps,
  job: JobRecord,
  grant: GrantRecord,
  failure: JobFailure,
): Promise<void> => {
  const failures = job.failures + 1
  const again = failures < MAX_PRESENT_FAILURES
  if (again && failure.code === 'ledger_lost' && hasGenerationAbove(grant)) {
    await raiseGeneration(tx, deps, grant, {}, { failures })
    return
  }
  if (again && failure.retryable) await retryLater(tx, deps, job, presentBackOff)
  else await giveUp(tx, deps, job, grant, failure.code)
}

/** `retryable` is not asked for an end, and an overtaken job (closed, or of an older generation) changes nothing. */
export const ensureFailed = async (tx: Tx, deps: Deps, job: JobRecord, failure: JobFailure): Promise<void> => {
  const grant = await tx.grants.get(job.grantId ?? '')
  if (!job.open || !grant || grant.closed || grant.generation !== job.generation) return
  const { code, message, hint } = failure
  const lastFailure = { code, message, hint, at: deps.clock.now(), state: grant.state }
  const noted: GrantRecord = { ...grant, lastFailure }
  await tx.grants.put(noted)
  await noteRefusedKey(tx, noted, failure)
  const recorded = recordedAbove(job, failure)
  const again = grant.state === 'absent' || job.failures + 1 < MAX_PRESENT_FAILURES
  if (recorded && again && hasGenerationAbove(grant, recorded.generation)) await goAbove(tx, deps, job, noted, recorded)
  else if (grant.state === 'absent') await retryLater(tx, deps, job, absentBackOff)
  else await presentFailed(tx, deps, job, noted, failure)
}
