import type { AbsentResult, InspectResult } from '../protocol/results.ts'
import type { ErrorFacts } from './errors.ts'
import { readAbsentReply, readInspectReply, readPresentReply } from './facts.ts'
import type { HostLink } from './link.ts'
import { type Parameters, programInput, sha256 } from './parameters.ts'
import { type Fields, readReply } from './reply.ts'
import type { EnsureRequest, PresentReply, RunContext } from './requests.ts'

export type { EnsureRequest, PresentReply, RunContext } from './requests.ts'

const AS_ROOT = 'env LC_ALL=C /bin/sh -s'
const BY_SUDO = 'env LC_ALL=C sudo -n -- /bin/sh -s'

const seconds = (ms: number): string => String(Math.floor(ms / 1000))

/** 9.2 as 902; 0 for anything that is not OpenSSH. Decides which options a trust line may carry. */
export const sshdVersion = (serverSoftware: string): number => {
  const found = /^OpenSSH_(\d{1,2})\.(\d{1,2})/.exec(serverSoftware)
  return found ? Number(found[1]) * 100 + Number(found[2]) : 0
}

const common = (link: HostLink, context: RunContext): Parameters => ({
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
  }
}

const run = async (link: HostLink, context: RunContext, parameters: Parameters, facts: ErrorFacts): Promise<Fields> => {
  const nonce = context.random(16).toString('hex')
  const outcome = await link.exec(link.user === 'root' ? AS_ROOT : BY_SUDO, programInput(nonce, parameters), {
    timeoutMs: context.timeoutMs,
    ...(context.signal ? { signal: context.signal } : {}),
  })
  return readReply(outcome, nonce, facts)
}

const factsOf = (link: HostLink, login?: string): ErrorFacts => ({
  user: link.user,
  host: link.host,
  port: link.port,
  ...(login === undefined ? {} : { login }),
})

const ensure = (link: HostLink, context: RunContext, request: EnsureRequest): Promise<Fields> =>
  run(link, context, ensureParameters(link, context, request), factsOf(link, request.grant.login))

/** Makes the server match a grant that is wanted. One round trip; safe to run again at any point. */
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

/** Looks at the server; changes nothing. */
export const inspect = async (link: HostLink, context: RunContext): Promise<InspectResult> => {
  const fields = await run(link, context, { op: 'inspect', ...common(link, context) }, factsOf(link))
  return readInspectReply(fields, link, context)
}

export interface HostProgram {
  readonly ensurePresent: typeof ensurePresent
  readonly ensureAbsent: typeof ensureAbsent
  readonly inspect: typeof inspect
}

export const hostProgram: HostProgram = { ensurePresent, ensureAbsent, inspect }
