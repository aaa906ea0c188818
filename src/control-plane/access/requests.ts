import { z } from 'zod'
import type { Tx } from '../store/store.ts'
import { audit } from './audit.ts'
import { type Deps, newId } from './deps.ts'
import { conflict, forbidden, type InputProblem, invalid, notFound } from './domain-error.ts'
import { createGrant, endGrant, extendGrant } from './grants.ts'
import { parseInput } from './input.ts'
import { DEFAULT_PERMISSION } from './integration-input.ts'
import { presentServers } from './integrations.ts'
import {
  type GrantRecord,
  grantPhase,
  type IntegrationRecord,
  type RequestRecord,
  type ServerRecord,
  type UserRecord,
} from './model.ts'
import { parsePublicKey } from './public-key.ts'

export const MIN_DURATION_SEC = 10
export const MAX_DURATION_SEC = 30 * 24 * 60 * 60
/** Of one grant, as the protocol has it. */
const MAX_GROUPS = 100
const DEFAULT_DURATION_SEC = 60 * 60

const Duration = z
  .int('must be a whole number of seconds')
  .min(MIN_DURATION_SEC, `must be at least ${MIN_DURATION_SEC}`)
  .max(MAX_DURATION_SEC, `must be at most ${MAX_DURATION_SEC} (30 days)`)

const RequestInput = z.object({
  entitlements: z
    .array(
      z.object({
        resource_id: z.string().min(1, 'required').max(600),
        permission_id: z.string().min(1, 'required').max(64),
      }),
    )
    .min(1, 'at least one')
    .max(1000),
  duration_in_sec: Duration.nullish(),
  justification: z.string().max(4000).nullish(),
  custom_fields: z.record(z.string().max(128), z.string().max(10_000)).nullish(),
  grantee: z.string().nullish(),
  bundle_reference: z.string().nullish(),
})

export interface Target {
  readonly server: ServerRecord
  readonly integration: IntegrationRecord
}

/** All servers that can be asked for. */
export const availableTargets = async (tx: Tx): Promise<readonly Target[]> => {
  const targets: Target[] = []
  let after: number | null = null
  do {
    const page: Awaited<ReturnType<Tx['integrations']['page']>> = await tx.integrations.page({ limit: 1000, after })
    for (const integration of page.items) {
      if (integration.disabled === true) continue
      for (const server of await presentServers(tx, integration.id)) targets.push({ server, integration })
    }
    after = page.next
  } while (after !== null)
  return targets
}

export const sourceId = ({ server, integration }: Target): string => `${integration.name}/${server.name}`

/** Our id, `integration/server`, or a server's name where only one has it. */
const resolveTarget = (targets: readonly Target[], resource: string): Target | string => {
  const exact = targets.find((target) => target.server.id === resource || sourceId(target) === resource)
  if (exact) return exact
  const [named, second] = targets.filter(({ server }) => server.name === resource)
  if (named && !second) return named
  return named ? 'more than one server has this name; use integration/server' : 'no such resource'
}

export const permissionsOf = (integration: IntegrationRecord): readonly string[] => [
  DEFAULT_PERMISSION,
  ...integration.userGroups,
]

interface Resolved {
  readonly entitlements: RequestRecord['entitlements']
  readonly problems: readonly InputProblem[]
}

const TOO_MANY_GROUPS = `more than ${MAX_GROUPS} permissions on one server; ask for fewer at once`

/** How many groups the grant on this server has with this permission added. */
const countGroups = (groups: Map<string, Set<string>>, serverId: string, permission: string): number => {
  const onServer = groups.get(serverId) ?? new Set()
  groups.set(serverId, onServer)
  if (permission !== DEFAULT_PERMISSION) onServer.add(permission)
  return onServer.size
}

const resolveEntitlements = (
  targets: readonly Target[],
  wanted: z.infer<typeof RequestInput>['entitlements'],
): Resolved => {
  const entitlements: { serverId: string; permission: string }[] = []
  const problems: InputProblem[] = []
  const groups = new Map<string, Set<string>>()
  wanted.forEach(({ resource_id, permission_id }, index) => {
    const target = resolveTarget(targets, resource_id)
    if (typeof target === 'string') problems.push({ path: `entitlements[${index}].resource_id`, message: target })
    else if (permissionsOf(target.integration).includes(permission_id)) {
      entitlements.push({ serverId: target.server.id, permission: permission_id })
      if (countGroups(groups, target.server.id, permission_id) > MAX_GROUPS) {
        problems.push({ path: `entitlements[${index}].permission_id`, message: TOO_MANY_GROUPS })
      }
    } else
      problems.push({ path: `entitlements[${index}].permission_id`, message: 'no such permission on this resource' })
  })
  return { entitlements, problems }
}

const ownKey = (
  customFields: Readonly<Record<string, string>>,
): { key: string | null; problems: readonly InputProblem[] } => {
  const text = customFields['public_key']
  if (text === undefined || text.trim() === '') return { key: null, problems: [] }
  const parsed = parsePublicKey(text)
  if (parsed.ok) return { key: parsed.key, problems: [] }
  return { key: null, problems: [{ path: 'custom_fields.public_key', message: parsed.problem }] }
}

const unsupported = (input: z.infer<typeof RequestInput>, user: UserRecord): readonly InputProblem[] => [
  ...(input.bundle_reference ? [{ path: 'bundle_reference', message: 'bundles are not supported yet' }] : []),
  ...(input.grantee && ![user.id, user.email].includes(input.grantee)
    ? [{ path: 'grantee', message: 'requests for someone else are not supported yet' }]
    : []),
]

export const createRequest = async (tx: Tx, deps: Deps, user: UserRecord, body: unknown): Promise<RequestRecord> => {
  const input = parseInput(RequestInput, body)
  const customFields = input.custom_fields ?? {}
  const resolved = resolveEntitlements(await availableTargets(tx), input.entitlements)
  const { key, problems } = ownKey(customFields)
  const all = [...unsupported(input, user), ...resolved.problems, ...problems]
  if (all.length > 0) throw invalid(all)
  const request: RequestRecord = {
    id: newId('req', deps.random),
    userId: user.id,
    entitlements: resolved.entitlements,
    durationMs: (input.duration_in_sec ?? DEFAULT_DURATION_SEC) * 1000,
    justification: input.justification ?? null,
    customFields,
    publicKey: key,
    decision: 'pending',
    decidedAt: null,
    decidedBy: null,
    createdAt: deps.clock.now(),
  }
  await tx.requests.put(request)
  await audit(tx, deps, user.id, 'request.created', request.id, { entitlements: request.entitlements })
  return request
}

export const getRequest = async (tx: Tx, id: string): Promise<RequestRecord> => {
  const request = await tx.requests.get(id)
  if (!request) throw notFound('access request')
  return request
}

const decide = async (
  tx: Tx,
  deps: Deps,
  request: RequestRecord,
  decision: RequestRecord['decision'],
  by: string,
): Promise<RequestRecord> => {
  if (request.decision !== 'pending') throw conflict(`the request is ${request.decision} already`)
  const decided: RequestRecord = { ...request, decision, decidedAt: deps.clock.now(), decidedBy: by }
  await tx.requests.put(decided)
  await audit(tx, deps, by, `request.${decision}`, request.id)
  return decided
}

const liveTarget = async (tx: Tx, serverId: string): Promise<Target> => {
  const server = await tx.servers.get(serverId)
  const integration = server ? await tx.integrations.get(server.integrationId) : null
  if (!server || server.removedAt !== null || !integration || integration.deletedAt !== null) {
    throw conflict('a server of this request is no longer there; reject it and ask anew')
  }
  if (integration.disabled === true) throw conflict(`the integration ${integration.name} is disabled`)
  return { server, integration }
}

/** One grant per server, with the union of what was asked for there. */
const groupsByServer = (request: RequestRecord): ReadonlyMap<string, readonly string[]> => {
  const groups = new Map<string, readonly string[]>()
  for (const { serverId, permission } of request.entitlements) {
    const added = permission === DEFAULT_PERMISSION ? [] : [permission]
    groups.set(serverId, [...new Set([...(groups.get(serverId) ?? []), ...added])])
  }
  return groups
}

export const approveRequest = async (tx: Tx, deps: Deps, admin: UserRecord, id: string): Promise<RequestRecord> => {
  const request = await getRequest(tx, id)
  if (request.userId === admin.id) throw forbidden('nobody approves their own request; another admin has to')
  const user = await tx.users.get(request.userId)
  if (!user) throw conflict('the requester is no longer there')
  const decided = await decide(tx, deps, request, 'approved', admin.id)
  for (const [serverId, groups] of groupsByServer(request)) {
    const { server, integration } = await liveTarget(tx, serverId)
    const gone = groups.find((group) => !integration.userGroups.includes(group))
    if (gone !== undefined) throw conflict(`the permission ${gone} is no longer there; reject the request and ask anew`)
    if (groups.length > MAX_GROUPS) throw conflict(`${TOO_MANY_GROUPS}; reject the request`)
    await createGrant(tx, deps, { request: decided, user, integration, server, groups })
  }
  return decided
}

export const rejectRequest = async (tx: Tx, deps: Deps, admin: UserRecord, id: string): Promise<RequestRecord> =>
  decide(tx, deps, await getRequest(tx, id), 'rejected', admin.id)

/** Revoking twice is fine: what is over stays over. */
export const revokeRequest = async (tx: Tx, deps: Deps, by: UserRecord, id: string): Promise<void> => {
  const request = await getRequest(tx, id)
  if (request.decision === 'pending') await decide(tx, deps, request, 'withdrawn', by.id)
  for (const grant of await tx.grants.byRequest(id)) await endGrant(tx, deps, grant, 'revoked', by.id)
}

const ExtendInput = z.object({ duration_in_sec: Duration })

/** Adds time to what the request still gives; the whole never exceeds the longest grant there is. */
export const extendRequest = async (
  tx: Tx,
  deps: Deps,
  admin: UserRecord,
  id: string,
  body: unknown,
): Promise<RequestRecord> => {
  const { duration_in_sec: seconds } = parseInput(ExtendInput, body)
  const request = await getRequest(tx, id)
  if (request.userId === admin.id) throw forbidden('nobody extends their own access; another admin has to')
  const running = (await tx.grants.byRequest(id)).filter((grant) => !grant.end)
  if (running.length === 0) throw conflict('nothing of this request is running; request access again')
  for (const grant of running) {
    const notAfter = grant.notAfter + seconds * 1000
    if (notAfter - grant.notBefore > MAX_DURATION_SEC * 1000) {
      throw invalid([
        { path: 'duration_in_sec', message: `the grant would be longer than ${MAX_DURATION_SEC} seconds` },
      ])
    }
    await extendGrant(tx, deps, grant, notAfter)
  }
  await audit(tx, deps, admin.id, 'request.extended', id, { seconds })
  return request
}

export type RequestStatus =
  | 'Pending'
  | 'Granting'
  | 'Active'
  | 'Revoking'
  | 'Revoked'
  | 'Expired'
  | 'Rejected'
  | 'Failed'

/** `Revoking` until the end is proven, whatever its reason. */
export const grantStatus = (grant: GrantRecord): RequestStatus => {
  const phase = grantPhase(grant)
  if (phase === 'granting') return 'Granting'
  if (phase === 'active') return 'Active'
  if (grant.end?.reason === 'failed') return 'Failed'
  if (phase === 'ending') return 'Revoking'
  return grant.end?.reason === 'expired' ? 'Expired' : 'Revoked'
}

/** What is still moving or usable says more about a request than what is over. */
const BY_WEIGHT: readonly RequestStatus[] = ['Granting', 'Active', 'Revoking', 'Revoked', 'Expired', 'Failed']

export const requestStatus = (request: RequestRecord, grants: readonly GrantRecord[]): RequestStatus => {
  if (request.decision === 'pending') return 'Pending'
  if (request.decision === 'rejected') return 'Rejected'
  if (request.decision === 'withdrawn') return 'Revoked'
  const statuses = grants.map(grantStatus)
  return BY_WEIGHT.find((status) => statuses.includes(status)) ?? 'Failed'
}
