import { type MintedCertificate, mintCertificate } from '../certificates/mint.ts'
import { JobError } from '../host/errors.ts'
import { problem } from '../host/facts.ts'
import type { HostProgram, NotDue, RunContext } from '../host/host-program.ts'
import type { HostLink } from '../host/link.ts'
import type { Clock } from '../observability/clock.ts'
import type { KnownGrant } from '../protocol/calls.ts'
import type { SecretReference, Server } from '../protocol/integration.ts'
import type { EnsureJob, Job, JobHead } from '../protocol/job.ts'
import { type AbsentResult, JobFailure, JobResult, type PresentResult, type Problem } from '../protocol/results.ts'
import type { KeyRing, SecretKeys } from '../secrets/key-ring.ts'
import { type HostKeyRules, keysToReport } from '../ssh/host-keys.ts'
import type { Pool } from '../ssh/pool.ts'
import type { Hop, Route } from '../ssh/route.ts'
import type { CheckedAddress } from '../ssh/socket.ts'
import type { Deadlines } from './config.ts'
import type { Guard } from './guard.ts'
import type { HostKeySource } from './known-hosts-file.ts'
import type { Lease } from './leases.ts'
import { keysTaken } from './login-keys.ts'
import { readJob } from './read-job.ts'
import type { Skew } from './skew.ts'

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
  readonly keys: KeyRing
  readonly pool: Pick<Pool, 'use'>
  readonly hostKeys: HostKeySource
  readonly hostProgram: HostProgram
  readonly deadlines: Deadlines
  readonly skew: Pick<Skew, 'ms' | 'now' | 'isSane'>
  readonly controlPlaneId: () => string
}

/** What has been found out on the way, for the failure as much as for the success. */
interface Run {
  readonly job: Job
  readonly lease: Lease
  readonly deps: ExecutorDeps
  /** What each place on the way showed, the last one last: what was refused, if it was. */
  readonly seenHostKeys: Map<string, string>
  /** The fingerprint of the key that each hop took. */
  readonly logins: Map<Hop, string>
}

const mint = ({ job, deps }: Run): MintedCertificate | null => {
  if (job.kind !== 'ensure' || job.grant.state !== 'present' || !job.grant.issue) return null
  const { id, publicKey, notBefore, notAfter } = job.grant
  return mintCertificate({
    grantId: id,
    publicKey,
    notBefore: Date.parse(notBefore),
    notAfter: Date.parse(notAfter),
    now: deps.skew.now(),
  })
}

/** A server that we are logged in to, the way to it, and what it is to trust. */
interface Connected {
  readonly link: HostLink
  readonly route: Route
  readonly minted: MintedCertificate | null
}

const placeName = ({ host, port }: Pick<Server, 'host' | 'port'>): string => `${host} ${port}`

/**
 * For the control plane to pin, where it knows none yet. What two machines of one private address on one way have shown is
 * not told apart by their place: nothing is said of those.
 */
const jumpKeys = ({ seenHostKeys }: Run, { jumps, target }: Route): Pick<PresentResult, 'jumps'> => {
  const places = [...jumps, target].map(({ server }) => placeName(server))
  const shown = jumps.map(({ server, rules }) => {
    const place = placeName(server)
    const seen = places.indexOf(place) === places.lastIndexOf(place) ? seenHostKeys.get(place) : undefined
    return { host: server.host, port: server.port, hostKeys: seen === undefined ? [] : keysToReport(seen, rules) }
  })
  return shown.length === 0 ? {} : { jumps: shown }
}

const keysOf = (run: Run, route: Route, link: HostLink) => ({
  hostKeys: keysToReport(link.hostKey, route.target.rules),
  ...jumpKeys(run, route),
})

const wholeSecond = (time: string): string => new Date(Math.floor(Date.parse(time) / 1000) * 1000).toISOString()

const contextOf = ({ deps, lease }: Run): RunContext => ({
  controlPlaneId: deps.controlPlaneId(),
  now: deps.skew.now(),
  timeoutMs: deps.deadlines.execMs,
  signal: lease.signal,
  random: deps.random,
})

const ensurePresent = async (run: Run, job: EnsureJob, { link, route, minted }: Connected): Promise<PresentResult> => {
  const { grant, integration, epoch } = job
  const request = { grant, policy: integration.policy, epoch, authority: minted?.authority ?? null }
  const reply = await run.deps.hostProgram.ensurePresent(link, contextOf(run), request)
  return {
    ...reply,
    groupsAdded: [...reply.groupsAdded],
    login: grant.login,
    certificate: minted?.certificate ?? null,
    validAfter: minted?.validAfter ?? null,
    validBefore: wholeSecond(grant.notAfter),
    ...keysOf(run, route, link),
  }
}

const secondsApart = ({ deps }: Run): string => `${Math.round(deps.skew.ms() / 1000)} s`

/** The status of the integration says then why nothing is granted. */
const clockProblem = (run: Run): Problem[] =>
  run.deps.skew.isSane() ? [] : [problem('error', 'connector_clock_skew', secondsApart(run), {})]

const inspect = async (run: Run, { link, route }: Connected): Promise<JobResult> => {
  const seen = await run.deps.hostProgram.inspect(link, contextOf(run))
  const { problems, ...taken } = keysTaken(route, run.logins)
  const all = [...clockProblem(run), ...problems, ...seen.problems]
  return { ...seen, ...keysOf(run, route, link), ...taken, problems: all.slice(0, 1000) }
}

const runOn = async (run: Run, connected: Connected): Promise<JobResult> => {
  const { job, lease, deps } = run
  const { link } = connected
  lease.checkpoint()
  if (job.kind === 'inspect') return await inspect(run, connected)
  if (job.kind === 'cleanup') {
    const request = { login: job.login, policy: job.integration.policy }
    return await deps.hostProgram.cleanup(link, contextOf(run), request)
  }
  if (job.grant.state === 'present') return await ensurePresent(run, job, connected)
  const request = { grant: job.grant, policy: job.integration.policy, epoch: job.epoch, authority: null }
  return await deps.hostProgram.ensureAbsent(link, contextOf(run), request)
}

/** The keys of each secret on the way. */
type Keys = ReadonlyMap<SecretReference, SecretKeys>

const secretsOf = ({ integration, server }: Job): SecretReference[] => [
  integration.secretStore,
  ...server.jumps.flatMap(({ secretStore }) => secretStore ?? []),
]

const readKeys = async ({ job, lease, deps }: Run): Promise<Keys> => {
  const keys = new Map<SecretReference, SecretKeys>()
  for (const reference of secretsOf(job)) keys.set(reference, await deps.keys.get(reference, lease.signal))
  return keys
}

/** Null where no secret on the way has changed since its keys were read. */
const renewKeys = async ({ lease, deps }: Run, keys: Keys): Promise<Keys | null> => {
  const renewed = new Map(keys)
  let changed = false
  for (const [reference, refused] of keys) {
    const newer = await deps.keys.renew(reference, refused, lease.signal)
    if (newer !== null) renewed.set(reference, newer)
    changed ||= newer !== null
  }
  return changed ? renewed : null
}

const rulesOf = ({ job, deps }: Run): HostKeyRules[] =>
  [...job.server.jumps, job.server].map((place) => deps.hostKeys(place, job.integration.policy.hostKeys))

/** The jump hosts in order, then the server; only the first is connected to from here, at what the guard admitted. */
const routeOf = ({ job }: Run, admitted: readonly CheckedAddress[], rules: HostKeyRules[], keys: Keys): Route => {
  const { server, integration } = job
  const hops = [...server.jumps, server].map(({ host, port, user, ...place }, index): Hop => {
    const reference = ('secretStore' in place ? place.secretStore : undefined) ?? integration.secretStore
    return {
      server: { host, port, user, addresses: index === 0 ? admitted : [] },
      key: keys.get(reference) as SecretKeys,
      rules: rules[index] as HostKeyRules,
    }
  })
  return { jumps: hops.slice(0, -1), target: hops.at(-1) as Hop }
}

const isEnd = (job: Job): boolean => job.kind === 'ensure' && job.grant.state === 'absent'

/** What is done on a server that we are logged in to. */
type Work<T> = (run: Run, connected: Connected) => Promise<T>

const connectAndRun = async <T>(
  run: Run,
  route: Route,
  minted: MintedCertificate | null,
  work: Work<T>,
): Promise<T> => {
  const { job, lease, deps } = run
  lease.checkpoint()
  return await deps.pool.use(
    route,
    {
      signal: lease.signal,
      urgent: isEnd(job),
      alone: job.kind !== 'inspect',
      offerAgain: job.kind === 'inspect' && job.asked === true,
      nextFirst: job.kind === 'inspect',
      onLogin: (hop, fingerprint) => void run.logins.set(hop, fingerprint),
      onHostKey: ({ server }, line) => {
        run.seenHostKeys.delete(placeName(server))
        run.seenHostKeys.set(placeName(server), line)
      },
    },
    (link) => work(run, { link, route, minted }),
  )
}

/** What happened on the server is unknown, and running again is safe: that is what the ledger is for. */
const isWorthAnotherRun = (error: unknown): boolean =>
  error instanceof JobError && (error.code === 'connection_lost' || error.code === 'interrupted')

const connectUpToTwice = async <T>(...attempt: Parameters<typeof connectAndRun<T>>): Promise<T> => {
  try {
    return await connectAndRun(...attempt)
  } catch (error) {
    if (!isWorthAnotherRun(error)) throw error
    return await connectAndRun(...attempt)
  }
}

const isKeyRefused = (error: unknown): boolean => error instanceof JobError && error.code === 'ssh_auth_failed'

/** With clocks that far apart, a certificate would begin or end at the wrong time. Ends go on: they ask no clock. */
const checkClock = (run: Run): void => {
  const { job, deps } = run
  if (deps.skew.isSane() || job.kind !== 'ensure' || job.grant.state === 'absent') return
  throw new JobError('connector_clock_skew', `the control plane's clock is ${secondsApart(run)} from the connector's`)
}

const perform = async <T>(run: Run, work: Work<T>): Promise<T> => {
  checkClock(run)
  const addresses = await run.deps.guard.admit(run.job, run.lease.signal)
  run.lease.checkpoint()
  // Before any secret is read: this may fail.
  const rules = rulesOf(run)
  const keys = await readKeys(run)
  const minted = mint(run)
  const performWith = (these: Keys) => connectUpToTwice(run, routeOf(run, addresses, rules, these), minted, work)
  try {
    return await performWith(keys)
  } catch (error) {
    // The key may have been changed in the store and on the server since it was read.
    const newer = isKeyRefused(error) ? await renewKeys(run, keys) : null
    if (newer === null) throw error
    return await performWith(newer)
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
  const refusedKey = /^host_key_(?:changed|unknown|revoked)$/.test(error.code)
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
    const result = checkResult(await perform({ job, lease, deps, seenHostKeys, logins: new Map() }, runOn))
    return { outcome: 'succeeded', result, job }
  } catch (error) {
    // Whatever a job that was called off ran into, that it was called off is what matters.
    const known = lease.signal.aborted ? new JobError('cancelled', String(lease.signal.reason)) : asJobError(error)
    return { outcome: 'failed', error: failureOf(known, seenHostKeys), job, cause: error }
  }
}

/** What comes of an end that no job asked for. */
export type ExpiryOutcome =
  | { readonly outcome: 'ended'; readonly result: AbsentResult }
  | { readonly outcome: 'not_due'; readonly until: number }
  | { readonly outcome: 'failed'; readonly error: JobError }

/** As an end is, for the guard and for the pool; the server decides by its ledger whether it is one. */
const asEnd = ({ integration, server, grant }: KnownGrant): EnsureJob => ({
  jobId: `expiry_${grant.id}`,
  epoch: 1,
  attempt: 1,
  leaseTtlMs: 60_000,
  kind: 'ensure',
  integration,
  server,
  grant: { ...grant, state: 'absent' },
})

const expireOn: Work<AbsentResult | NotDue> = async (run, { link }) => {
  const { grant } = run.job as EnsureJob
  // By the later of our two clocks as well: neither may keep anybody in.
  const now = Math.max(run.deps.clock.now(), run.deps.skew.now())
  return await run.deps.hostProgram.expire(link, { ...contextOf(run), now }, grant)
}

/** Ends a grant whose time is over, if its server agrees. Never rejects. */
export const executeExpiry = async (
  known: KnownGrant,
  signal: AbortSignal,
  deps: ExecutorDeps,
): Promise<ExpiryOutcome> => {
  const lease: Lease = {
    jobId: `expiry_${known.grant.id}`,
    epoch: 1,
    signal,
    checkpoint: () => signal.throwIfAborted(),
  }
  const run: Run = { job: asEnd(known), lease, deps, seenHostKeys: new Map(), logins: new Map() }
  try {
    const reply = await perform(run, expireOn)
    return 'notDueBefore' in reply
      ? { outcome: 'not_due', until: reply.notDueBefore }
      : { outcome: 'ended', result: checkResult(reply) as AbsentResult }
  } catch (error) {
    return { outcome: 'failed', error: asJobError(error) }
  }
}
