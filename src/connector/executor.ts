import { type MintedCertificate, mintCertificate } from '../certificates/mint.ts'
import { JobError } from '../host/errors.ts'
import type { HostProgram, RunContext } from '../host/host-program.ts'
import type { HostLink } from '../host/link.ts'
import type { Clock } from '../observability/clock.ts'
import type { SecretReference, Server } from '../protocol/integration.ts'
import type { EnsureJob, InspectJob, Job, JobHead } from '../protocol/job.ts'
import { JobFailure, JobResult, type PresentResult } from '../protocol/results.ts'
import { type KeyCache, referenceName } from '../secrets/key-cache.ts'
import { disposeMaterial } from '../secrets/secret-store.ts'
import type { SecretStores } from '../secrets/stores.ts'
import { withDeadline } from '../ssh/deadline.ts'
import type { Pool } from '../ssh/pool.ts'
import type { Hop, Route, VersionedKey } from '../ssh/route.ts'
import type { CheckedAddress } from '../ssh/socket.ts'
import type { Deadlines } from './config.ts'
import type { Guard } from './guard.ts'
import type { Lease } from './leases.ts'
import { readJob } from './read-job.ts'

/**
 * One job from its JSON to its outcome, in one direction: read, guard, secret, key, certificate, connection, program
 * on the server, result. Invariants:
 *
 * - Nothing is touched before the job was read whole and the guard has admitted it.
 * - Before every side effect the lease is looked at.
 * - A certificate is minted once per hand-out; running again after a lost connection uses the same one, because the
 *   server takes an equal (generation, epoch) only with equal content.
 * - It never rejects: whatever happens becomes an outcome with a place in the error table.
 */
export type JobOutcome =
  | { readonly outcome: 'succeeded'; readonly result: JobResult; readonly job: Job }
  | { readonly outcome: 'failed'; readonly error: JobFailure; readonly job: Job | null; readonly cause: unknown }

export interface ExecutorDeps {
  readonly clock: Clock
  readonly random: (bytes: number) => Buffer
  readonly guard: Guard
  readonly secrets: SecretStores
  readonly keys: KeyCache
  readonly pool: Pick<Pool, 'use'>
  readonly hostProgram: HostProgram
  readonly deadlines: Deadlines
  /** Milliseconds since 1970, corrected by the skew to the control plane. */
  readonly now: () => number
  readonly controlPlaneId: () => string
}

/** What has been found out on the way, for the failure as much as for the success. */
interface Run {
  readonly job: Job
  readonly lease: Lease
  readonly deps: ExecutorDeps
  /** What each place on the way showed, the last one last: what was refused, if it was. */
  readonly seenHostKeys: Map<string, string>
}

const readKey = async ({ lease, deps }: Run, reference: SecretReference): Promise<VersionedKey> => {
  const ms = deps.deadlines.secretMs
  const material = await withDeadline(deps.secrets.read(reference, { signal: lease.signal }), {
    clock: deps.clock,
    ms,
    signal: lease.signal,
    onTimeout: () => new JobError('secret_store_unreachable', `the secret was not read within ${ms} ms`),
    onAbort: () => new JobError('cancelled', 'called off while reading the secret'),
  })
  try {
    const key = deps.keys.open(reference, material)
    return { key, version: `${referenceName(reference)} ${material.version}` }
  } finally {
    disposeMaterial(material)
  }
}

const mint = ({ job, deps }: Run): MintedCertificate | null => {
  if (job.kind !== 'ensure' || job.grant.state !== 'present' || !job.grant.issue) return null
  const { id, publicKey, notBefore, notAfter } = job.grant
  return mintCertificate({
    grantId: id,
    publicKey,
    notBefore: Date.parse(notBefore),
    notAfter: Date.parse(notAfter),
    now: deps.now(),
  })
}

const placeName = ({ host, port }: Pick<Server, 'host' | 'port'>): string => `${host} ${port}`

/** For the control plane to pin, where it knows none yet. */
const jumpKeys = ({ job, seenHostKeys }: Run): Pick<PresentResult, 'jumps'> => {
  const jumps = job.server.jumps.map((jump) => {
    const seen = seenHostKeys.get(placeName(jump))
    return { host: jump.host, port: jump.port, hostKeys: merged(seen === undefined ? [] : [seen], jump.hostKeys) }
  })
  return jumps.length === 0 ? {} : { jumps }
}

const merged = (...lists: readonly (readonly string[])[]): string[] => [...new Set(lists.flat())]

const wholeSecond = (time: string): string => new Date(Math.floor(Date.parse(time) / 1000) * 1000).toISOString()

const contextOf = ({ deps, lease }: Run): RunContext => ({
  controlPlaneId: deps.controlPlaneId(),
  now: deps.now(),
  timeoutMs: deps.deadlines.execMs,
  signal: lease.signal,
  random: deps.random,
})

const ensurePresent = async (
  run: Run,
  job: EnsureJob,
  link: HostLink,
  minted: MintedCertificate | null,
): Promise<PresentResult> => {
  const { grant, integration, server, epoch } = job
  const request = { grant, policy: integration.policy, epoch, authority: minted?.authority ?? null }
  const reply = await run.deps.hostProgram.ensurePresent(link, contextOf(run), request)
  return {
    ...reply,
    groupsAdded: [...reply.groupsAdded],
    login: grant.login,
    certificate: minted?.certificate ?? null,
    validAfter: minted?.validAfter ?? null,
    validBefore: wholeSecond(grant.notAfter),
    hostKeys: merged([link.hostKey], server.hostKeys),
    ...jumpKeys(run),
  }
}

const inspect = async (run: Run, job: InspectJob, link: HostLink): Promise<JobResult> => {
  const seen = await run.deps.hostProgram.inspect(link, contextOf(run))
  return { ...seen, hostKeys: merged([link.hostKey], seen.hostKeys, job.server.hostKeys), ...jumpKeys(run) }
}

const runOn = async (run: Run, link: HostLink, minted: MintedCertificate | null): Promise<JobResult> => {
  const { job, lease, deps } = run
  lease.checkpoint()
  if (job.kind === 'inspect') return await inspect(run, job, link)
  if (job.kind === 'cleanup') {
    const request = { login: job.login, policy: job.integration.policy }
    return await deps.hostProgram.cleanup(link, contextOf(run), request)
  }
  if (job.grant.state === 'present') return await ensurePresent(run, job, link, minted)
  const request = { grant: job.grant, policy: job.integration.policy, epoch: job.epoch, authority: null }
  return await deps.hostProgram.ensureAbsent(link, contextOf(run), request)
}

type Place = Pick<Server, 'host' | 'port' | 'user' | 'hostKeys'>

const hopOf = (
  { job }: Run,
  { host, port, user, hostKeys }: Place,
  key: VersionedKey,
  addresses: readonly CheckedAddress[],
): Hop => ({
  server: { host, port, user, addresses },
  key,
  rules: { known: hostKeys, policy: job.integration.policy.hostKeys },
})

/** Only the first place on the way is connected to from here; what the guard admitted are its addresses. */
const findRoute = async (run: Run, admitted: readonly CheckedAddress[]): Promise<Route> => {
  const { server, integration } = run.job
  const ownKey = await readKey(run, integration.secretStore)
  const jumps: Hop[] = []
  for (const jump of server.jumps) {
    const key = jump.secretStore === undefined ? ownKey : await readKey(run, jump.secretStore)
    jumps.push(hopOf(run, jump, key, jumps.length === 0 ? admitted : []))
  }
  return { jumps, target: hopOf(run, server, ownKey, jumps.length === 0 ? admitted : []) }
}

const isEnd = (job: Job): boolean => job.kind === 'ensure' && job.grant.state === 'absent'

const connectAndRun = async (run: Run, route: Route, minted: MintedCertificate | null): Promise<JobResult> => {
  const { job, lease, deps } = run
  lease.checkpoint()
  return await deps.pool.use(
    route,
    {
      signal: lease.signal,
      urgent: isEnd(job),
      alone: job.kind !== 'inspect',
      onHostKey: ({ server }, line) => {
        run.seenHostKeys.delete(placeName(server))
        run.seenHostKeys.set(placeName(server), line)
      },
    },
    (link) => runOn(run, link, minted),
  )
}

/** What happened on the server is unknown, and running again is safe: that is what the ledger is for. */
const isWorthAnotherRun = (error: unknown): boolean =>
  error instanceof JobError && (error.code === 'connection_lost' || error.code === 'interrupted')

const perform = async (run: Run): Promise<JobResult> => {
  const addresses = await run.deps.guard.admit(run.job, run.lease.signal)
  run.lease.checkpoint()
  const route = await findRoute(run, addresses)
  const minted = mint(run)
  try {
    return await connectAndRun(run, route, minted)
  } catch (error) {
    if (!isWorthAnotherRun(error)) throw error
    return await connectAndRun(run, route, minted)
  }
}

/** Results carry strings of a server's making; one that does not fit the protocol would poison the outbox. */
const checkResult = (result: JobResult): JobResult => {
  if (JobResult.safeParse(result).success) return result
  throw new JobError('internal_error', 'the result does not fit the protocol')
}

const asJobError = (error: unknown): JobError =>
  error instanceof JobError
    ? error
    : new JobError(
        'internal_error',
        `a defect: ${error instanceof Error ? error.name : typeof error}`,
        {},
        { cause: error },
      )

/**
 * A refused host key is named in the failure, so that an admin can look at it before accepting it. What a server made up
 * and does not fit the protocol is left out: it would make the whole report unreadable.
 */
const failureOf = (error: JobError, seenHostKeys: ReadonlyMap<string, string>): JobFailure => {
  const plain = {
    code: error.code,
    message: error.message.slice(0, 2048),
    hint: error.hint.slice(0, 4096),
    retryable: error.retryable,
  }
  const { recorded, hostKeys } = JobFailure.shape
  const pair = recorded.safeParse(error.recorded).data
  const refusedKey = error.code === 'host_key_changed' || error.code === 'host_key_unknown'
  const last = [...seenHostKeys.values()].slice(-1)
  const keys = refusedKey ? last.filter((line) => hostKeys.safeParse([line]).success) : undefined
  return { ...plain, ...(pair ? { recorded: pair } : {}), ...(keys ? { hostKeys: keys } : {}) }
}

/** Runs one job to its outcome. Never rejects. */
export const executeJob = async (
  raw: unknown,
  head: JobHead,
  lease: Lease,
  deps: ExecutorDeps,
): Promise<JobOutcome> => {
  const seenHostKeys = new Map<string, string>()
  let job: Job | null = null
  try {
    job = readJob(raw, head)
    const result = checkResult(await perform({ job, lease, deps, seenHostKeys }))
    return { outcome: 'succeeded', result, job }
  } catch (error) {
    // Whatever a job that was called off ran into, that it was called off is what matters.
    const known = lease.signal.aborted ? new JobError('cancelled', String(lease.signal.reason)) : asJobError(error)
    return { outcome: 'failed', error: failureOf(known, seenHostKeys), job, cause: error }
  }
}
