import type { Grant } from '../protocol/grant.ts'
import type { Policy, SecretReference } from '../protocol/integration.ts'
import type { EnsureJob } from '../protocol/job.ts'
import type { Denial } from './denial.ts'
import { MAX_GRANT_MS } from './guard-file.ts'
import type { GuardLimits } from './guard-file-watch.ts'
import { judgePlace, type Place, placeText, type ToBeLookedUp } from './host-rules.ts'
import { awsRegion, secretText } from './secret-names.ts'
import { admitsSecret } from './secret-rules.ts'

/**
 * What the customer's guard file adds to the default limits, member by member; without one (null) only what it could have
 * allowed. Each is decided by looking at one thing alone, and names the member and what would have to stand there.
 */
type Limits = GuardLimits | null

const addHint = (member: string, entry: unknown, path: string): string =>
  `If this should be allowed: add ${JSON.stringify(entry)} to ${member} in ${path}.`

const outOfList = (
  member: string,
  what: string,
  list: readonly unknown[],
  path: string,
  entry: unknown = what,
): Denial => {
  const rules = list.length === 1 ? 'not in the 1 rule' : `in none of the ${list.length} rules`
  return { message: `${member}: ${what} is ${rules} of ${path}`, hint: addHint(member, entry, path) }
}

const secretWords = (reference: SecretReference): string => {
  const region = reference.type === 'aws' ? ` in ${awsRegion(reference)}` : ''
  return `${reference.type} ${secretText(reference)}${region}`
}

export const secretBeyondFile = (reference: SecretReference, limits: Limits): Denial | null => {
  const rules = limits?.rules.secrets
  if (!limits || !rules || rules.some((rule) => admitsSecret(rule, reference))) return null
  const entry = { store: reference.type, name: secretText(reference) }
  return outOfList('secrets', secretWords(reference), rules, limits.path, entry)
}

const matches = (patterns: readonly string[], name: string): boolean =>
  patterns.some((pattern) => (pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern))

/** As a job of a grant that begins. `root` and the connection user are nobody's to adopt, whatever a pattern takes in. */
export const adoptionBeyondFile = ({ grant, integration, server }: EnsureJob, limits: Limits): Denial | null => {
  if (integration.policy.existingUser !== 'adopt') return null
  const { login } = grant
  if (login === 'root' || login === server.user) {
    return { message: `adopt: ${login} is never adopted`, hint: 'Give the person another login.' }
  }
  const adopt = limits?.rules.adopt ?? false
  if (adopt === true || (adopt !== false && matches(adopt, login))) return null
  if (limits === null) {
    const hint = 'Existing accounts are adopted only where APONO_GUARD_FILE says so (adopt: true, or a list of logins).'
    return { message: 'adopt: the policy existingUser: adopt is not allowed without a guard file', hint }
  }
  const hint = adopt === false ? `If this should be allowed: set adopt to ["${login}"] in ${limits.path}.` : null
  return {
    message: `adopt: ${limits.path} does not let the existing account ${login} be adopted`,
    hint: hint ?? addHint('adopt', login, limits.path),
  }
}

/** A control plane allows as long by a clock that is never quite ours. */
const CLOCK_SLACK_MS = 300_000

/** `now`: by the connector's own clock. The corrected one follows the control plane, which is not to be trusted here. */
export const endBeyondFile = ({ notAfter }: Grant, limits: Limits, now: number): Denial | null => {
  const most = limits?.rules.maxGrantMs ?? MAX_GRANT_MS
  if (Date.parse(notAfter) - now <= most + CLOCK_SLACK_MS) return null
  if (limits?.rules.maxGrantMs === undefined || most === MAX_GRANT_MS) {
    return {
      message: 'maxGrantMs: the grant ends more than 30 days from now',
      hint: 'Request access for a shorter time.',
    }
  }
  return {
    message: `maxGrantMs: the grant ends more than the ${most} ms of ${limits.path} from now`,
    hint: `Request access for a shorter time. If this should be allowed: raise maxGrantMs in ${limits.path}.`,
  }
}

export const loginBeyondFile = ({ login }: Grant, limits: Limits): Denial | null => {
  const patterns = limits?.rules.logins
  return !limits || !patterns || matches(patterns, login) ? null : outOfList('logins', login, patterns, limits.path)
}

export const groupsBeyondFile = ({ groups }: Grant, limits: Limits): Denial | null => {
  const patterns = limits?.rules.groups
  if (!limits || !patterns) return null
  const outside = groups.find((group) => !matches(patterns, group))
  return outside === undefined ? null : outOfList('groups', outside, patterns, limits.path)
}

const LISTED = ['trust', 'shell', 'rootProcesses', 'homes', 'onRevoke', 'hostKeys'] as const

const isListed = (allowed: readonly string[] | undefined, value: string): boolean =>
  allowed === undefined || allowed.includes(value)

type Field = (typeof LISTED)[number]

const listedBeyondFile = (policy: Policy, limits: Limits, fields: readonly Field[]): Denial | null => {
  const allowed = limits?.rules.policy
  if (!limits || !allowed) return null
  const field = fields.find((name) => !isListed(allowed[name], policy[name]))
  return field === undefined ? null : outOfList(`policy.${field}`, policy[field], allowed[field] ?? [], limits.path)
}

/** Of jobs that give no access: what they do by the policy. */
const FIELDS_OF = { inspect: ['hostKeys'], cleanup: ['hostKeys', 'homes'] } as const

export const lookBeyondFile = (kind: keyof typeof FIELDS_OF, policy: Policy, limits: Limits): Denial | null =>
  listedBeyondFile(policy, limits, FIELDS_OF[kind])

export const policyBeyondFile = (policy: Policy, limits: Limits): Denial | null => {
  const allowed = limits?.rules.policy
  if (!limits || !allowed) return null
  const listed = listedBeyondFile(policy, limits, LISTED)
  if (listed !== null) return listed
  const [low, high] = policy.uidRange
  const [least, most] = allowed.uidRange ?? policy.uidRange
  if (least <= low && high <= most) return null
  return {
    message: `policy.uidRange: ${low} to ${high} is not within the ${least} to ${most} of ${limits.path}`,
    hint: `Narrow uidRange in the integration's policy. If this should be allowed: widen policy.uidRange in ${limits.path}.`,
  }
}

export const placeOutOfFile = (place: Place, { path, rules }: GuardLimits): Denial =>
  outOfList('hosts', placeText(place), rules.hosts ?? [], path)

/** Null: nothing against it. A name that only its addresses can decide comes back as where they must lie. */
export const placeBeyondFile = (place: Place, limits: Limits, isBehind: boolean): Denial | ToBeLookedUp | null => {
  if (!limits?.rules.hosts) return null
  const judged = judgePlace(place, limits.rules.hosts, isBehind)
  if (judged === 'inside') return null
  return judged === 'outside' ? placeOutOfFile(place, limits) : judged
}

/** The control plane is told that too, so it is cut short. */
export const brokenFile = (limits: Limits): Denial | null => {
  if (!limits || limits.problems.length === 0) return null
  return {
    code: 'guard_file_unusable',
    message: `the guard file ${limits.path} cannot be used: ${limits.problems.slice(0, 3).join('; ').slice(0, 1000)}`,
    hint: `Mend it on the connector; until then only ends of grants are done. "apono-connector guard check" names every problem.`,
  }
}
