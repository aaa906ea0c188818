/**
 * A grant is present until it ends, and it ends once: present → absent → closed. Invariants:
 *
 * - every change of what the server should look like raises `generation` and opens a new job, which replaces the old;
 * - once handed out, it is closed only by a confirmed `absent` or an admin's `abandon`; never handed out, it is closed
 *   at once, since no server can have anything of it;
 * - `end` is decided by the control plane, `closed` by what a server (or an admin) said.
 */
import { Grant } from '../../protocol/grant.ts'
import type { Integration, Server } from '../../protocol/integration.ts'
import { rootEquivalent } from '../../protocol/root-equivalent.ts'
import type { Tx } from '../store/store.ts'
import { audit } from './audit.ts'
import { type Deps, newId } from './deps.ts'
import { conflict } from './domain-error.ts'
import { closeGrantJobs, openEnsureJob } from './jobs.ts'
import { pathOf } from './jump-list.ts'
import { makeKeyPair } from './key-pair.ts'
import type { EndReason, GrantRecord, IntegrationRecord, RequestRecord, ServerRecord, UserRecord } from './model.ts'

const MAX_COUNTER = 2 ** 31 - 1

/** Kept for ends, which must always be possible. */
const RESERVED_GENERATIONS = 1_000_000

export const hasGenerationAbove = (grant: GrantRecord, floor = 0): boolean =>
  Math.max(grant.generation, floor) < MAX_COUNTER - RESERVED_GENERATIONS

export const protocolIntegration = (record: IntegrationRecord): Integration => ({
  id: record.id,
  name: record.name,
  version: record.version,
  secretStore: record.secretStore,
  userGroups: [...record.userGroups],
  policy: record.policy,
})

export const protocolServer = (record: ServerRecord): Server => ({
  id: record.id,
  name: record.name,
  host: record.host,
  port: record.port,
  user: record.user,
  tags: { ...record.tags },
  hostKeys: [...record.hostKeys],
  jumps: [...(record.jumps ?? [])],
})

const instant = (ms: number): string => new Date(ms).toISOString()

/** True while we hold no certificate for what the server should have now. */
const mustIssue = (grant: GrantRecord): boolean =>
  grant.state === 'present' && grant.certificate?.generation !== grant.generation

export const protocolGrant = (grant: GrantRecord, hostId: string | null): Grant => ({
  id: grant.id,
  generation: grant.generation,
  state: grant.state,
  login: grant.login,
  person: grant.person,
  groups: [...grant.groups],
  notBefore: instant(grant.notBefore),
  notAfter: instant(grant.state === 'absent' ? grant.latestNotAfter : grant.notAfter),
  publicKey: grant.publicKey,
  issue: mustIssue(grant),
  hostId: grant.hostId ?? hostId,
})

export const sameMachine = (grant: GrantRecord, server: ServerRecord | null): server is ServerRecord =>
  server !== null && pathOf(server) === pathOf(grant.server)

/** The snapshot, with the host keys and the identity that we have learnt since, while the address is the same. */
export const grantOnServer = async (tx: Tx, grant: GrantRecord): Promise<{ server: Server; grant: Grant }> => {
  const live = await tx.servers.get(grant.serverId)
  if (!sameMachine(grant, live)) return { server: grant.server, grant: protocolGrant(grant, null) }
  const hostKeys = grant.server.hostKeys.length > 0 ? grant.server.hostKeys : [...live.hostKeys]
  const jumps = [...(live.jumps ?? [])]
  return { server: { ...grant.server, hostKeys, jumps }, grant: protocolGrant(grant, live.hostId) }
}

export interface NewGrant {
  readonly request: RequestRecord
  readonly user: UserRecord
  readonly integration: IntegrationRecord
  readonly server: ServerRecord
  readonly groups: readonly string[]
}

const keyFor = (deps: Deps, request: RequestRecord, grantId: string) => {
  if (request.publicKey) return { publicKey: request.publicKey, sealedPrivateKey: null, keyOrigin: 'person' as const }
  const pair = makeKeyPair(deps.random)
  const sealedPrivateKey = deps.seal.seal(pair.privateKey, grantId)
  return { publicKey: pair.publicKey, sealedPrivateKey, keyOrigin: 'control_plane' as const }
}

const BLANK = {
  generation: 1,
  state: 'present',
  handedOut: false,
  certificate: null,
  present: null,
  confirmedNotAfter: null,
  hostId: null,
  end: null,
  absent: null,
  closed: null,
  lastFailure: null,
} as const

/** What no connector would accept could never be ended either. */
const checkFitsProtocol = (grant: GrantRecord): void => {
  const [issue] = Grant.safeParse(protocolGrant(grant, null)).error?.issues ?? []
  if (issue) throw conflict(`the grant does not fit the protocol: ${issue.path.join('.')}: ${issue.message}`)
}

export const createGrant = async (tx: Tx, deps: Deps, fresh: NewGrant): Promise<GrantRecord> => {
  const { request, user, integration, server } = fresh
  const now = deps.clock.now()
  const id = newId('grt', deps.random)
  const grant: GrantRecord = {
    ...BLANK,
    ...keyFor(deps, request, id),
    id,
    requestId: request.id,
    userId: user.id,
    connectorId: integration.connectorId,
    serverId: server.id,
    integration: protocolIntegration(integration),
    server: protocolServer(server),
    login: user.login,
    person: user.email,
    groups: fresh.groups,
    notBefore: now,
    notAfter: now + request.durationMs,
    latestNotAfter: now + request.durationMs,
    createdAt: now,
  }
  checkFitsProtocol(grant)
  const powers = rootEquivalent(grant.groups)
  await audit(tx, deps, request.decidedBy ?? user.id, 'grant.created', id, {
    person: user.email,
    login: grant.login,
    server: server.name,
    groups: [...grant.groups],
    ...(powers.length > 0 ? { rootEquivalent: powers } : {}),
  })
  await tx.grants.put(grant)
  await openEnsureJob(tx, deps, grant)
  return grant
}

type Changes = Partial<Omit<GrantRecord, 'id' | 'generation'>>

/** The desired state changes: above `floor` too, where a server remembers more than we do. Never throws for want of a number. */
export const raiseGeneration = async (
  tx: Tx,
  deps: Deps,
  grant: GrantRecord,
  changes: Changes,
  options: { floor?: number; failures?: number; wait?: number } = {},
): Promise<GrantRecord> => {
  const generation = Math.min(Math.max(grant.generation, options.floor ?? 0) + 1, MAX_COUNTER)
  const changed: GrantRecord = { ...grant, ...changes, generation }
  await tx.grants.put(changed)
  await openEnsureJob(tx, deps, changed, options)
  return changed
}

/** Ends a grant; ending it again changes nothing. The private key goes with it, whoever still wanted to see it. */
export const endGrant = async (
  tx: Tx,
  deps: Deps,
  grant: GrantRecord,
  reason: EndReason,
  by: string,
): Promise<GrantRecord> => {
  if (grant.end) return grant
  const at = deps.clock.now()
  const end = { reason, at, by, ...(reason === 'failed' && grant.lastFailure ? { failure: grant.lastFailure } : {}) }
  const ended = { state: 'absent', sealedPrivateKey: null, end } as const
  await audit(tx, deps, by, `grant.${reason}`, grant.id, { login: grant.login, server: grant.server.name })
  if (grant.handedOut) return raiseGeneration(tx, deps, grant, ended)
  const closed: GrantRecord = { ...grant, ...ended, closed: { at, how: 'never_handed_out' } }
  await closeGrantJobs(tx, grant.id)
  await tx.grants.put(closed)
  return closed
}

/** The certificate in the person's hand keeps working until its own end; a new one comes with the next result. */
export const extendGrant = async (tx: Tx, deps: Deps, grant: GrantRecord, notAfter: number): Promise<GrantRecord> => {
  if (grant.end) throw conflict('the grant has ended; request access again')
  if (notAfter <= grant.notAfter) throw conflict('the new end must be later than the present one')
  if (!hasGenerationAbove(grant)) throw conflict('the grant cannot be extended any more; request access again')
  const latestNotAfter = Math.max(grant.latestNotAfter, notAfter)
  return raiseGeneration(tx, deps, grant, { notAfter, latestNotAfter })
}

/** An admin gives up on a server that will never answer again. What is left there is then theirs to find. */
export const abandonGrant = async (
  tx: Tx,
  deps: Deps,
  grant: GrantRecord,
  by: string,
  reason: string,
): Promise<GrantRecord> => {
  if (grant.closed) throw conflict('the grant is closed already')
  if (!grant.end) throw conflict('the grant has not ended; revoke it first')
  await closeGrantJobs(tx, grant.id)
  const closed: GrantRecord = { ...grant, closed: { at: deps.clock.now(), how: 'abandoned' } }
  await tx.grants.put(closed)
  await audit(tx, deps, by, 'grant.abandoned', grant.id, { reason, login: grant.login, server: grant.server.name })
  return closed
}
