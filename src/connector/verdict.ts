import type { SecretReference } from '../protocol/integration.ts'
import type { EnsureJob, Job } from '../protocol/job.ts'
import type { CheckedAddress } from '../ssh/socket.ts'
import {
  addressBeyondDefaults,
  type DefaultLimits,
  placeBeyondDefaults,
  secretBeyondDefaults,
} from './default-limits.ts'
import type { Denial } from './denial.ts'
import {
  adoptionBeyondFile,
  brokenFile,
  endBeyondFile,
  groupsBeyondFile,
  loginBeyondFile,
  lookBeyondFile,
  placeBeyondFile,
  placeOutOfFile,
  policyBeyondFile,
  secretBeyondFile,
} from './file-limits.ts'
import type { GuardLimits } from './guard-file-watch.ts'
import { isInNetworks, type NamedNetwork, type Place } from './host-rules.ts'
import type { Network } from './networks.ts'

/**
 * Everything about a job that can be decided without asking DNS, in one place and one order: what it reads, what it
 * gives, where it goes. Pure, so that a job can be judged offline (guard-check.ts) by the very code that guards.
 */
export interface Setting extends DefaultLimits {
  /** Null: there is no guard file. */
  readonly limits: GuardLimits | null
  /** Milliseconds since 1970, by our own clock. */
  readonly now: number
}

export type Verdict =
  | { readonly denied: Denial }
  /** `networks`: where all addresses of the first place must lie; null: wherever the default limits allow. */
  | { readonly denied: null; readonly networks: readonly NamedNetwork[] | null }

/** What the connector itself connects to: the first jump host, or the server. */
export const firstPlace = ({ server }: Job): Place => server.jumps[0] ?? server

const secretsOf = ({ integration, server }: Job): SecretReference[] => [
  integration.secretStore,
  ...server.jumps.flatMap(({ secretStore }) => secretStore ?? []),
]

const secretDenial = (job: Job, setting: Setting): Denial | null => {
  for (const reference of secretsOf(job)) {
    const denied = secretBeyondDefaults(reference, setting) ?? secretBeyondFile(reference, setting.limits)
    if (denied !== null) return denied
  }
  return null
}

const beginningDenial = (job: EnsureJob, { limits, now }: Setting): Denial | null =>
  adoptionBeyondFile(job, limits) ??
  endBeyondFile(job.grant, limits, now) ??
  loginBeyondFile(job.grant, limits) ??
  groupsBeyondFile(job.grant, limits) ??
  policyBeyondFile(job.integration.policy, limits)

const isEnd = (job: Job): boolean => job.kind === 'ensure' && job.grant.state === 'absent'

const jobDenial = (job: Job, setting: Setting): Denial | null => {
  const broken = isEnd(job) ? null : brokenFile(setting.limits)
  const denied = broken ?? secretDenial(job, setting)
  if (denied !== null || isEnd(job)) return denied
  return job.kind === 'ensure'
    ? beginningDenial(job, setting)
    : lookBeyondFile(job.kind, job.integration.policy, setting.limits)
}

const judgeWay = ({ server }: Job, setting: Setting): Verdict => {
  let networks: readonly NamedNetwork[] | null = null
  for (const [index, place] of [...server.jumps, server].entries()) {
    const judged = placeBeyondDefaults(place, setting) ?? placeBeyondFile(place, setting.limits, index > 0)
    if (judged === null) continue
    if ('message' in judged) return { denied: judged }
    networks = judged.networks
  }
  return { denied: null, networks }
}

export const judgeJob = (job: Job, setting: Setting): Verdict => {
  const denied = jobDenial(job, setting)
  return denied === null ? judgeWay(job, setting) : { denied }
}

/** What DNS said of the first place: every address has to be allowed, since any of them may be connected to. */
export const addressesDenial = (
  job: Job,
  addresses: readonly CheckedAddress[],
  networks: readonly Network[] | null,
  setting: Setting,
): Denial | null => {
  for (const address of addresses) {
    const denied = addressBeyondDefaults(address, setting)
    if (denied !== null) return denied
  }
  if (networks === null || setting.limits === null) return null
  const isInside = addresses.length > 0 && addresses.every(({ address }) => isInNetworks(address, networks))
  return isInside ? null : placeOutOfFile(firstPlace(job), setting.limits)
}
