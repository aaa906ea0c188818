import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { deleteConnector, renameConnector } from '../access/connectors.ts'
import { notFound } from '../access/domain-error.ts'
import { parseInput } from '../access/input.ts'
import { integrationStatus } from '../access/integration-status.ts'
import {
  createIntegration,
  deleteIntegration,
  getIntegration,
  presentServers,
  refreshIntegration,
  updateIntegration,
} from '../access/integrations.ts'
import type { ConnectorRecord, IntegrationRecord } from '../access/model.ts'
import { permissionsOf } from '../access/requests.ts'
import { instanceTtlMs } from '../access/settle.ts'
import type { Service } from '../service.ts'
import type { Tx } from '../store/store.ts'
import { adminCaller } from './auth.ts'
import { pageModel, pageQuery, queryList } from './paging.ts'
import { connectorModel, integrationModel, RESOURCE_TYPE, resourceModel, SSH_TYPE } from './vendor-models.ts'

type ById = { Params: { id: string } }

const matches = (wanted: readonly string[] | null, value: string): boolean => wanted === null || wanted.includes(value)

/** Filters are applied within a page, so that a page may have fewer items than `limit`; `next_page_token` decides. */
const integrationFilter = (query: unknown) => {
  const [connectors, names, types, statuses] = ['connector_id', 'name', 'type', 'status'].map((name) =>
    queryList(query, name),
  )
  return async (tx: Tx, integration: IntegrationRecord): Promise<boolean> => {
    if (!matches(connectors ?? null, integration.connectorId)) return false
    if (!matches(names ?? null, integration.name) || !matches(types ?? null, SSH_TYPE)) return false
    return matches(
      statuses ?? null,
      integrationStatus(integration.disabled === true, await presentServers(tx, integration.id)).status,
    )
  }
}

const integrationRoutes = (app: FastifyInstance, service: Service): void => {
  const { deps, store } = service

  app.get('/api/admin/v4/integrations', (request) =>
    store.read(async (tx) => {
      await adminCaller(tx, request)
      const page = await tx.integrations.page(pageQuery(request.query))
      const keep = integrationFilter(request.query)
      const items = []
      for (const item of page.items) if (await keep(tx, item)) items.push(await integrationModel(tx, item))
      return pageModel(items, page)
    }),
  )

  app.post('/api/admin/v4/integrations', (request) =>
    service.change(async (tx) => {
      const admin = await adminCaller(tx, request)
      return integrationModel(tx, await createIntegration(tx, deps, admin.id, request.body))
    }),
  )

  app.get<ById>('/api/admin/v4/integrations/:id', (request) =>
    store.read(async (tx) => {
      await adminCaller(tx, request)
      return integrationModel(tx, await getIntegration(tx, request.params.id))
    }),
  )

  app.put<ById>('/api/admin/v4/integrations/:id', (request) =>
    service.change(async (tx) => {
      const admin = await adminCaller(tx, request)
      return integrationModel(tx, await updateIntegration(tx, deps, admin.id, request.params.id, request.body))
    }),
  )

  app.delete<ById>('/api/admin/v4/integrations/:id', async (request, reply) => {
    await service.change(async (tx) => {
      const admin = await adminCaller(tx, request)
      await deleteIntegration(tx, deps, admin.id, request.params.id)
    })
    return reply.code(204).send()
  })

  app.post<ById>('/api/v2/integrations/:id/refresh', (request) =>
    service.change(async (tx) => {
      const admin = await adminCaller(tx, request)
      await refreshIntegration(tx, deps, admin.id, request.params.id)
      return { message: 'Refresh started' }
    }),
  )
}

/** These two vendor lists are not paged: they say so by a limit that holds everything. */
const whole = <T>(data: readonly T[]) => ({
  data,
  pagination: { total: data.length, limit: Math.max(data.length, 1), offset: 0 },
})

const resourceRoutes = (app: FastifyInstance, { store }: Service): void => {
  app.get<ById>('/api/v3/integrations/:id/resources', (request) =>
    store.read(async (tx) => {
      await adminCaller(tx, request)
      const integration = await getIntegration(tx, request.params.id)
      const servers = await tx.servers.byIntegration(integration.id)
      return whole(servers.map((server) => resourceModel({ server, integration })))
    }),
  )

  app.get<ById>('/api/v3/integrations/:id/permissions', (request) =>
    store.read(async (tx) => {
      await adminCaller(tx, request)
      const integration = await getIntegration(tx, request.params.id)
      return whole(permissionsOf(integration).map((name) => ({ id: name, name, resource_type: RESOURCE_TYPE.id })))
    }),
  )
}

const RenameInput = z.object({ name: z.string().trim().min(1, 'required').max(256) })

const describeConnector = async ({ deps }: Service, tx: Tx, connector: ConnectorRecord, newest: string) => {
  const since = deps.clock.now() - instanceTtlMs(deps)
  const live = (await tx.instances.byConnector(connector.id)).filter(({ lastSeenAt }) => lastSeenAt >= since)
  return connectorModel(connector, live, newest)
}

/** The highest version that any connector here runs: all instances should run the same. */
const newestVersion = async (tx: Tx): Promise<string> => {
  const { items } = await tx.connectors.page({ limit: 1000, after: null })
  const [newest] = items.map(({ version }) => version).sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))
  return newest ?? ''
}

const connectorRoutes = (app: FastifyInstance, service: Service): void => {
  const { deps, store } = service
  const modelOf = async (tx: Tx, connector: ConnectorRecord) =>
    describeConnector(service, tx, connector, await newestVersion(tx))

  app.get('/api/admin/v3/connectors', (request) =>
    store.read(async (tx) => {
      await adminCaller(tx, request)
      const page = await tx.connectors.page(pageQuery(request.query))
      const statuses = queryList(request.query, 'status')
      const newest = await newestVersion(tx)
      const items = []
      for (const connector of page.items) items.push(await describeConnector(service, tx, connector, newest))
      return pageModel(
        items.filter(({ status }) => matches(statuses, status)),
        page,
      )
    }),
  )

  app.get<ById>('/api/admin/v3/connectors/:id', (request) =>
    store.read(async (tx) => {
      await adminCaller(tx, request)
      const connector = await tx.connectors.get(request.params.id)
      if (!connector) throw notFound('connector')
      return modelOf(tx, connector)
    }),
  )

  app.put<ById>('/api/admin/v3/connectors/:id', (request) =>
    service.change(async (tx) => {
      const admin = await adminCaller(tx, request)
      const { name } = parseInput(RenameInput, request.body)
      return modelOf(tx, await renameConnector(tx, deps, admin.id, request.params.id, name))
    }),
  )

  app.delete<ById>('/api/admin/v3/connectors/:id', async (request, reply) => {
    await service.change(async (tx) => {
      const admin = await adminCaller(tx, request)
      await deleteConnector(tx, deps, admin.id, request.params.id)
    })
    return reply.code(204).send()
  })
}

/** The vendor's admin API, as far as it is about integrations, their resources, and connectors. */
export const adminApi = (app: FastifyInstance, service: Service): void => {
  integrationRoutes(app, service)
  resourceRoutes(app, service)
  connectorRoutes(app, service)
}
