import type { RegisterRequest } from '../../protocol/calls.ts'
import type { JobRef } from '../../protocol/job.ts'
import type { Tx } from '../store/store.ts'
import { audit } from './audit.ts'
import type { Deps } from './deps.ts'
import { conflict, notFound } from './domain-error.ts'
import { releaseLease } from './jobs.ts'
import type { ConnectorRecord, InstanceRecord, TokenRecord } from './model.ts'
import { instanceTtlMs } from './settle.ts'

const unseen = (id: string): ConnectorRecord => ({
  id,
  name: id,
  version: '',
  cloud: { provider: 'none' },
  secretStores: [],
  lastSeenAt: null,
})

/** Makes the id known, so that an integration can name a connector that is yet to come. */
export const reserveConnector = async (tx: Tx, id: string): Promise<void> => {
  if (!(await tx.connectors.get(id))) await tx.connectors.put(unseen(id))
}

export type RegisterOutcome = 'ok' | 'connector_not_allowed'

/** An id that nobody relies on yet: else a token for anything could take a connector's jobs over by naming it. */
const isUnclaimed = async (tx: Tx, connectorId: string): Promise<boolean> => {
  const [token, integration] = [
    await tx.tokens.byConnector(connectorId),
    await tx.integrations.byConnector(connectorId),
  ]
  return token.length === 0 && integration.length === 0
}

/** The first register binds an unbound token. A known instance of this connector may come again, also with a new token. */
export const registerInstance = async (
  tx: Tx,
  deps: Deps,
  token: TokenRecord,
  request: RegisterRequest,
): Promise<RegisterOutcome> => {
  const { connectorId, instanceId, version, cloud, secretStores } = request
  if (token.connectorId !== null && token.connectorId !== connectorId) return 'connector_not_allowed'
  const known = await tx.instances.get(instanceId)
  if (known && known.connectorId !== connectorId) return 'connector_not_allowed'
  if (token.connectorId === null) {
    if (!(await isUnclaimed(tx, connectorId))) return 'connector_not_allowed'
    await tx.tokens.put({ ...token, connectorId })
  }
  const lastSeenAt = deps.clock.now()
  const connector = (await tx.connectors.get(connectorId)) ?? unseen(connectorId)
  await tx.connectors.put({ ...connector, version, cloud, secretStores, lastSeenAt })
  await tx.instances.put({ id: instanceId, connectorId, tokenId: token.id, version, cloud, lastSeenAt })
  if (!known)
    deps.log.info({ event: 'registered', connector: connectorId, instance: instanceId, version }, 'registered')
  return 'ok'
}

/** Null: it is gone, was never there, or belongs to another token; whoever calls has to register. */
export const findInstance = async (
  tx: Tx,
  deps: Deps,
  token: TokenRecord,
  instanceId: string,
): Promise<InstanceRecord | null> => {
  const instance = await tx.instances.get(instanceId)
  if (!instance || instance.tokenId !== token.id) return null
  return instance.lastSeenAt < deps.clock.now() - instanceTtlMs(deps) ? null : instance
}

export const touchInstance = async (tx: Tx, deps: Deps, instance: InstanceRecord): Promise<void> => {
  const lastSeenAt = deps.clock.now()
  await tx.instances.put({ ...instance, lastSeenAt })
  const connector = await tx.connectors.get(instance.connectorId)
  if (connector) await tx.connectors.put({ ...connector, lastSeenAt })
}

/** What it holds and does not release may still run somewhere: those leases end by themselves. */
export const deregisterInstance = async (
  tx: Tx,
  deps: Deps,
  instance: InstanceRecord,
  release: readonly JobRef[],
): Promise<void> => {
  for (const ref of release) await releaseLease(tx, instance, ref)
  await tx.instances.remove(instance.id)
  deps.log.info({ event: 'deregistered', connector: instance.connectorId, instance: instance.id }, 'deregistered')
}

export const renameConnector = async (
  tx: Tx,
  deps: Deps,
  actor: string,
  id: string,
  name: string,
): Promise<ConnectorRecord> => {
  const connector = await tx.connectors.get(id)
  if (!connector) throw notFound('connector')
  const renamed = { ...connector, name }
  await tx.connectors.put(renamed)
  await audit(tx, deps, actor, 'connector.renamed', id, { name })
  return renamed
}

/** Its tokens go too, else it would be back with its next register. Nobody may be left on its servers. */
export const deleteConnector = async (tx: Tx, deps: Deps, actor: string, id: string): Promise<void> => {
  if (!(await tx.connectors.get(id))) throw notFound('connector')
  const [integration] = await tx.integrations.byConnector(id)
  if (integration) throw conflict(`integration "${integration.name}" uses this connector`)
  const open = await tx.grants.openOfConnector({ connectorId: id, limit: 1, after: null })
  if (open.items.length > 0) throw conflict('this connector has grants whose end is not confirmed')
  for (const instance of await tx.instances.byConnector(id)) await tx.instances.remove(instance.id)
  for (const token of await tx.tokens.byConnector(id)) await tx.tokens.remove(token.id)
  await tx.connectors.remove(id)
  await audit(tx, deps, actor, 'connector.deleted', id)
}
