import type { Tx } from '../store/store.ts'
import { audit } from './audit.ts'
import { someTimeInTheHour } from './back-off.ts'
import { type Deps, newId } from './deps.ts'
import { conflict, invalid, notFound } from './domain-error.ts'
import { endGrant } from './grants.ts'
import { followHostKeys, wantedHostKeys } from './host-keys.ts'
import { type IntegrationInput, parseIntegration } from './integration-input.ts'
import { openInspectJob } from './jobs.ts'
import { pathOf, wantedJumps } from './jump-list.ts'
import type { IntegrationRecord, ServerRecord } from './model.ts'
import { parseServers, type ServerInput } from './server-list.ts'

export const getIntegration = async (tx: Tx, id: string): Promise<IntegrationRecord> => {
  const integration = await tx.integrations.get(id)
  if (!integration || integration.deletedAt !== null) throw notFound('integration')
  return integration
}

export const presentServers = async (tx: Tx, integrationId: string): Promise<readonly ServerRecord[]> =>
  (await tx.servers.byIntegration(integrationId)).filter(({ removedAt }) => removedAt === null)

const checkReferences = async (tx: Tx, input: IntegrationInput, self: string | null): Promise<void> => {
  if (!(await tx.connectors.get(input.connectorId))) {
    throw invalid([
      { path: 'connector_id', message: 'no connector with this id registered, and no token was made for it' },
    ])
  }
  const named = await tx.integrations.byName(input.name)
  if (named && named.id !== self) throw conflict('an integration with this name exists')
}

const blankServer = (deps: Deps, integrationId: string, input: ServerInput): ServerRecord => ({
  ...input,
  jumps: wantedJumps(input.jumps, []),
  id: newId('srv', deps.random),
  integrationId,
  hostId: null,
  hostKeys: input.hostKeys ?? [],
  inspectedAt: null,
  refreshAt: deps.clock.now(),
  // The first look is asked for by whoever adds it; this is the one after.
  nextInspectAt: someTimeInTheHour(deps.random, deps.clock.now()),
  inspection: null,
  failure: null,
  removedAt: null,
})

/** At another address, or by another way, it is another machine: nothing that we learnt of the former holds. */
const updatedServer = (
  deps: Deps,
  known: ServerRecord,
  input: ServerInput,
  former: ServerInput | undefined,
): ServerRecord => {
  const moved = pathOf(known) !== pathOf(input)
  const jumps = wantedJumps(input.jumps, known.jumps ?? [], former?.jumps)
  const forgotten = moved ? { hostId: null, inspection: null, failure: null, inspectedAt: null } : {}
  const hostKeys = moved ? (input.hostKeys ?? []) : wantedHostKeys(known.hostKeys, input.hostKeys, former?.hostKeys)
  const at = deps.clock.now()
  const nextInspectAt = someTimeInTheHour(deps.random, at)
  return { ...known, ...input, ...forgotten, hostKeys, jumps, refreshAt: at, nextInspectAt, removedAt: null }
}

const endGrantsOn = async (tx: Tx, deps: Deps, server: ServerRecord, by: string): Promise<void> => {
  for (const grant of await tx.grants.byServer(server.id)) await endGrant(tx, deps, grant, 'revoked', by)
}

const removeServer = async (tx: Tx, deps: Deps, server: ServerRecord, by: string): Promise<void> => {
  if (server.removedAt !== null) return
  await tx.servers.put({ ...server, removedAt: deps.clock.now() })
  await endGrantsOn(tx, deps, server, by)
}

/** Names identify servers within an integration: the same name keeps its id, its grants and its history. */
const putServers = async (
  tx: Tx,
  deps: Deps,
  integration: IntegrationRecord,
  wanted: readonly ServerInput[],
  former: readonly ServerInput[],
  by: string,
): Promise<void> => {
  const sent = new Map(former.map((input) => [input.name, input]))
  const known = new Map((await tx.servers.byIntegration(integration.id)).map((server) => [server.name, server]))
  for (const input of wanted) {
    const before = known.get(input.name)
    known.delete(input.name)
    const server = before
      ? updatedServer(deps, before, input, sent.get(input.name))
      : blankServer(deps, integration.id, input)
    await tx.servers.put(server)
    if (before) await followHostKeys(tx, deps, before, server, by)
    await openInspectJob(tx, deps, server, integration.connectorId)
  }
  for (const gone of known.values()) await removeServer(tx, deps, gone, by)
}

const { stringify } = JSON

export const createIntegration = async (tx: Tx, deps: Deps, by: string, body: unknown): Promise<IntegrationRecord> => {
  const { servers, ...input } = parseIntegration(body)
  await checkReferences(tx, { ...input, servers }, null)
  const createdAt = deps.clock.now()
  const integration = { ...input, id: newId('int', deps.random), version: 1, createdAt, deletedAt: null }
  await tx.integrations.put(integration)
  await putServers(tx, deps, integration, servers, [], by)
  await audit(tx, deps, by, 'integration.created', integration.id, { name: input.name, servers: servers.length })
  return integration
}

/** The vendor's update leaves `type` out, and `connector_id` and the secret store may stay as they are. */
const withFormer = (former: IntegrationRecord, secretStoreConfig: unknown, body: unknown): unknown => {
  if (typeof body !== 'object' || body === null) return body
  const defaults = { connector_id: former.connectorId, secret_store_config: secretStoreConfig }
  const sent = Object.entries(body).filter(
    ([key, value]) => !(key in defaults && (value === null || value === undefined)),
  )
  return { ...defaults, ...Object.fromEntries(sent), type: 'ssh' }
}

/** As the admin last sent them. */
const serversOf = (integration: IntegrationRecord): readonly ServerInput[] => {
  const parsed = parseServers(integration.config['servers'])
  return parsed.ok ? parsed.value : []
}

export const updateIntegration = async (
  tx: Tx,
  deps: Deps,
  by: string,
  id: string,
  body: unknown,
): Promise<IntegrationRecord> => {
  const former = await getIntegration(tx, id)
  const { servers, ...input } = parseIntegration(withFormer(former, secretStoreModel(former.secretStore), body))
  await checkReferences(tx, { ...input, servers }, id)
  const integration: IntegrationRecord = { ...former, ...input, version: former.version + 1 }
  await tx.integrations.put(integration)
  await putServers(tx, deps, integration, servers, serversOf(former), by)
  const changed = stringify(former.policy) === stringify(input.policy) ? {} : { policy: input.policy }
  await audit(tx, deps, by, 'integration.updated', id, { version: integration.version, ...changed })
  return integration
}

/** Everyone's access through it ends; the ends run with the snapshots that the grants hold. */
export const deleteIntegration = async (tx: Tx, deps: Deps, by: string, id: string): Promise<void> => {
  const integration = await getIntegration(tx, id)
  for (const server of await tx.servers.byIntegration(id)) await removeServer(tx, deps, server, by)
  await tx.integrations.put({ ...integration, deletedAt: deps.clock.now() })
  await audit(tx, deps, by, 'integration.deleted', id, { name: integration.name })
}

/** Switching it off ends nothing; switching it on looks at all of its servers again. */
export const switchIntegration = async (
  tx: Tx,
  deps: Deps,
  by: string,
  id: string,
  disabled: boolean,
): Promise<IntegrationRecord> => {
  const integration: IntegrationRecord = { ...(await getIntegration(tx, id)), disabled }
  await tx.integrations.put(integration)
  await audit(tx, deps, by, disabled ? 'integration.disabled' : 'integration.enabled', id, { name: integration.name })
  if (!disabled) await refreshIntegration(tx, deps, by, id)
  return integration
}

export const refreshIntegration = async (tx: Tx, deps: Deps, by: string, id: string): Promise<void> => {
  const integration = await getIntegration(tx, id)
  if (integration.disabled === true) throw conflict('the integration is disabled; enable it first')
  for (const server of await presentServers(tx, id)) {
    const refreshed = { ...server, refreshAt: deps.clock.now() }
    await tx.servers.put(refreshed)
    await openInspectJob(tx, deps, refreshed, integration.connectorId)
  }
  await audit(tx, deps, by, 'integration.refreshed', id)
}

/** As the vendor's API names it. */
export const secretStoreModel = (store: IntegrationRecord['secretStore']): Record<string, Record<string, string>> => {
  switch (store.type) {
    case 'aws':
      return { aws: { region: store.region, secret_id: store.secretId } }
    case 'gcp':
      return { gcp: { project: store.project, secret_id: store.secretId } }
    case 'azure':
      return { azure: { vault_url: store.vaultUrl, name: store.name } }
    case 'kubernetes':
      return { kubernetes: { namespace: store.namespace, name: store.name } }
    case 'hashicorp_vault':
      return { hashicorp_vault: { secret_engine: store.secretEngine, path: store.path } }
    case 'file':
      return { file: { path: store.path } }
  }
}
