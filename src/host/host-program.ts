import type { Grant } from '../protocol/grant.ts'
import type { Policy } from '../protocol/integration.ts'
import type { AbsentResult, CleanupResult, InspectResult } from '../protocol/results.ts'
import { type ErrorFacts, JobError } from './errors.ts'
import { readAbsentReply, readCleanupReply, readInspectReply, readPresentReply } from './facts.ts'
import type { HostLink } from './link.ts'
import { type Parameters, programInput, sha256 } from './parameters.ts'
import { type AccountTools, programHash } from './program-text.ts'
import { all, type Fields, one, readReply, readWish, type Wish, wholeNumber } from './reply.ts'
import type { BecomingRoot, EnsureRequest, PresentReply, RunContext } from './requests.ts'

export type { EnsureRequest, PresentReply, RunContext } from './requests.ts'

/** How we become root. Constant, and understood by every login shell; doas takes no `--`. */
const COMMANDS: Readonly<Record<BecomingRoot, string>> = {
  root: 'env LC_ALL=C /bin/sh -s',
  sudo: 'env LC_ALL=C sudo -n -- /bin/sh -s',
  doas: 'env LC_ALL=C doas -n /bin/sh -s',
}

const seconds = (ms: number): string => String(Math.floor(ms / 1000))

/** 9.2 as 902; 0 for anything that is not OpenSSH. Decides which options a trust line may carry. */
export const sshdVersion = (serverSoftware: string): number => {
  const found = /^OpenSSH_(\d{1,2})\.(\d{1,2})/.exec(serverSoftware)
  return found ? Number(found[1]) * 100 + Number(found[2]) : 0
}

const common = (link: HostLink, context: RunContext) => ({
  cp: context.controlPlaneId,
  user: link.user,
  now: seconds(context.now),
  sshd: String(sshdVersion(link.serverSoftware)),
})

/** Two runs with the same (generation, epoch) must ask for the same; this is what the ledger compares. */
const contentOf = ({ grant, authority }: EnsureRequest, person: string): string => {
  const groups = [...grant.groups].sort()
  return sha256(JSON.stringify([grant.state, grant.login, person, groups, grant.notAfter, authority]))
}

const ensureParameters = (link: HostLink, context: RunContext, request: EnsureRequest): Parameters => {
  const { grant, policy, epoch, authority } = request
  // Salted with the control plane's id: the name of a person never reaches a server.
  const person = sha256(`${context.controlPlaneId}\n${grant.person}`)
  const [caType = '', caKey = ''] = authority === null ? [] : authority.split(' ')
  return {
    op: grant.state,
    ...common(link, context),
    fresh_host: `h_${context.random(16).toString('hex')}`,
    host: grant.hostId ?? '',
    grant: grant.id,
    generation: String(grant.generation),
    epoch: String(epoch),
    login: grant.login,
    person,
    groups: [...new Set(grant.groups)].join(','),
    not_after: seconds(Date.parse(grant.notAfter)),
    content: contentOf(request, person),
    ca_type: caType,
    ca_key: caKey,
    trust: policy.trust,
    shell: policy.shell,
    uid_low: String(policy.uidRange[0]),
    uid_high: String(policy.uidRange[1]),
    on_revoke: policy.onRevoke,
    root_processes: policy.rootProcesses,
    existing: policy.existingUser,
    timer: 'wanted',
  }
}

/** One run of the program: who asks whom for what. */
interface Run {
  readonly link: HostLink
  readonly context: RunContext
  readonly parameters: Parameters
  readonly facts: ErrorFacts
}

interface Reply {
  readonly fields: Fields
  readonly by: BecomingRoot
}

/** `present` looks for, and `install` writes down, the program that the server's timer should have. */
const sentParameters = (parameters: Parameters, tools: AccountTools): Parameters =>
  parameters.op === 'present' || parameters.op === 'install'
    ? { ...parameters, program: programHash(tools) }
    : parameters

/** The job that `present` wants to be done first. */
const jobBefore = (wish: 'install' | 'cleanup', { link, context, parameters }: Run): Parameters =>
  wish === 'install'
    ? { op: wish, ...common(link, context) }
    : { op: wish, ...common(link, context), login: parameters.login ?? '', homes: 'archive', keep_uids: 'yes' }

interface Prepared {
  readonly tools: AccountTools
  readonly granted: readonly Wish[]
}

const runBy = async (
  by: BecomingRoot,
  wanted: Run,
  { tools, granted }: Prepared = { tools: 'shadow', granted: [] },
): Promise<Reply> => {
  const { link, context, parameters, facts } = wanted
  const nonce = context.random(16).toString('hex')
  const outcome = await link.exec(COMMANDS[by], programInput(nonce, sentParameters(parameters, tools), tools), {
    timeoutMs: context.timeoutMs,
    ...(context.signal ? { signal: context.signal } : {}),
  })
  const wish = readWish(outcome, nonce)
  // Twice is possible: between two runs the timer may wake up, find no grant, and remove itself.
  if (wish === undefined || granted.filter((one) => one === wish).length > 1) {
    return { fields: readReply(outcome, nonce, facts), by }
  }
  const next = { tools, granted: [...granted, wish] }
  if (wish === 'busybox') return await runBy(by, wanted, { ...next, tools: 'busybox' })
  const { fields } = await runBy(by, { ...wanted, parameters: jobBefore(wish, wanted) }, { tools, granted: [] })
  const timerFailed = wish === 'install' && one(fields, 'expiry') !== 'full'
  return await runBy(by, timerFailed ? { ...wanted, parameters: { ...parameters, timer: 'none' } } : wanted, next)
}

const isSudoMissing = (error: unknown): boolean => error instanceof JobError && error.code === 'sudo_missing'

/** Where `env` found no sudo nothing has run, so doas gets the same input. Where that is missing too, sudo is named. */
const runAsRoot = async (wanted: Run): Promise<Reply> => {
  if (wanted.link.user === 'root') return await runBy('root', wanted)
  try {
    return await runBy('sudo', wanted)
  } catch (error) {
    if (!isSudoMissing(error)) throw error
    return await runBy('doas', wanted).catch((second: unknown) => {
      throw isSudoMissing(second) ? error : second
    })
  }
}

const run = async (link: HostLink, context: RunContext, parameters: Parameters, facts: ErrorFacts): Promise<Fields> => {
  const { fields } = await runAsRoot({ link, context, parameters, facts })
  return fields
}

const factsOf = (link: HostLink, login?: string): ErrorFacts => ({
  user: link.user,
  host: link.host,
  port: link.port,
  ...(login === undefined ? {} : { login }),
})

const ensure = (link: HostLink, context: RunContext, request: EnsureRequest): Promise<Fields> =>
  run(link, context, ensureParameters(link, context, request), factsOf(link, request.grant.login))

/**
 * Makes the server match a grant that is wanted. One round trip, or three where the server's timer has another program or
 * none; safe to run again at any point.
 */
export const ensurePresent = async (
  link: HostLink,
  context: RunContext,
  request: EnsureRequest,
): Promise<PresentReply> => readPresentReply(await ensure(link, context, request))

/** Ends a grant on the server and says what was seen at the end. One round trip; safe to run again at any point. */
export const ensureAbsent = async (
  link: HostLink,
  context: RunContext,
  request: EnsureRequest,
): Promise<AbsentResult> => readAbsentReply(await ensure(link, context, request), request.grant.login)

/**
 * Deletes an account of ours that has no live grant; its home is put away or deleted, its uid never given again. Fails
 * with `grants_live` while a grant of the login is not ended.
 */
export const cleanup = async (
  link: HostLink,
  context: RunContext,
  request: { readonly login: string; readonly policy: Policy },
): Promise<CleanupResult> => {
  const { login, policy } = request
  const rest = { login, homes: policy.homes, keep_uids: 'yes' }
  return readCleanupReply(
    await run(link, context, { op: 'cleanup', ...common(link, context), ...rest }, factsOf(link, login)),
    login,
  )
}

/** Where a recorded extension wins over who asks: when the grant ends now, milliseconds since 1970. */
export interface NotDue {
  readonly notDueBefore: number
}

/**
 * Ends a grant whose time is over, by the later of the server's clock and `context.now`, without a job: as it is recorded
 * there, with the proof again where it has ended before. Fails with `ledger_lost` where nothing is recorded.
 */
export const expire = async (
  link: HostLink,
  context: RunContext,
  { id, login, hostId }: Pick<Grant, 'id' | 'login' | 'hostId'>,
): Promise<AbsentResult | NotDue> => {
  const parameters: Parameters = { op: 'expire', ...common(link, context), grant: id, host: hostId ?? '' }
  const fields = await run(link, context, parameters, factsOf(link, login))
  const notDue = all(fields, 'not_due').length > 0
  return notDue ? { notDueBefore: wholeNumber(fields, 'not_due') * 1000 } : readAbsentReply(fields, login)
}

/**
 * Takes everything of ours off the server, accounts with their homes included. Fails with `grants_live` while a grant
 * is not ended.
 * @param keepUids leave the list of uids that were given out, so that a later connector gives none of them again
 */
export const uninstall = async (
  link: HostLink,
  context: RunContext,
  { keepUids, homes }: { readonly keepUids: boolean; readonly homes: Policy['homes'] },
): Promise<void> => {
  const rest = { homes, keep_uids: keepUids ? 'yes' : 'no' }
  await run(link, context, { op: 'uninstall', ...common(link, context), ...rest }, factsOf(link))
}

/** Looks at the server; changes nothing. */
export const inspect = async (link: HostLink, context: RunContext): Promise<InspectResult> => {
  const parameters: Parameters = { op: 'inspect', ...common(link, context) }
  const facts = factsOf(link)
  const { fields, by } = await runAsRoot({ link, context, parameters, facts })
  return readInspectReply(fields, { link, context, facts, by })
}

export interface HostProgram {
  readonly ensurePresent: typeof ensurePresent
  readonly ensureAbsent: typeof ensureAbsent
  readonly inspect: typeof inspect
  readonly cleanup: typeof cleanup
  readonly expire: typeof expire
}

export const hostProgram: HostProgram = { ensurePresent, ensureAbsent, inspect, cleanup, expire }
