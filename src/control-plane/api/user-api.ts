import type { FastifyInstance } from 'fastify'
import { accessDetails } from '../access/access-details.ts'
import { forbidden } from '../access/domain-error.ts'
import { type GrantRecord, grantPhase, type RequestRecord, type UserRecord } from '../access/model.ts'
import { availableTargets, createRequest, permissionsOf, revokeRequest } from '../access/requests.ts'
import type { Service } from '../service.ts'
import type { Tx } from '../store/store.ts'
import { userCaller } from './auth.ts'
import { pageModel, pageQuery, queryList } from './paging.ts'
import { availableEntitlement, requestEntitlements, requestModel, sessionModel } from './vendor-models.ts'

type ById = { Params: { id: string } }

/** Somebody else's request looks exactly like one that does not exist. */
const visibleRequest = async (tx: Tx, user: UserRecord, id: string): Promise<RequestRecord> => {
  const request = await tx.requests.get(id)
  if (request && (user.role === 'admin' || request.userId === user.id)) return request
  throw forbidden()
}

const requestRoutes = (app: FastifyInstance, service: Service): void => {
  const { deps, store } = service
  const path = '/api/user/v4/access-requests'

  app.get(path, (request) =>
    store.read(async (tx) => {
      const user = await userCaller(tx, request)
      const own = user.role === 'admin' ? {} : { userId: user.id }
      const page = await tx.requests.page({ ...pageQuery(request.query), ...own, newestFirst: true })
      const [statuses, requestors] = [queryList(request.query, 'statuses'), queryList(request.query, 'requestor')]
      const items = []
      for (const item of page.items) items.push(await requestModel(tx, item))
      const kept = items.filter(
        ({ status, requestor }) =>
          (statuses?.includes(status) ?? true) &&
          (requestors?.some((wanted) => wanted === requestor?.id || wanted === requestor?.source_id) ?? true),
      )
      return pageModel(kept, page)
    }),
  )

  /** The vendor answers with a list, because a bundle makes several requests. */
  app.post(path, (request) =>
    service.change(async (tx) => {
      const user = await userCaller(tx, request)
      return [await requestModel(tx, await createRequest(tx, deps, user, request.body))]
    }),
  )

  app.get<ById>(`${path}/:id`, (request) =>
    store.read(async (tx) => {
      const user = await userCaller(tx, request)
      return requestModel(tx, await visibleRequest(tx, user, request.params.id))
    }),
  )

  app.get<ById>(`${path}/:id/entitlements`, (request) =>
    store.read(async (tx) => {
      const user = await userCaller(tx, request)
      const found = await visibleRequest(tx, user, request.params.id)
      return pageModel(await requestEntitlements(tx, found), { next: null })
    }),
  )

  app.post<ById>(`${path}/:id/revoke`, (request) =>
    service.change(async (tx) => {
      const user = await userCaller(tx, request)
      const found = await visibleRequest(tx, user, request.params.id)
      await revokeRequest(tx, deps, user, found.id)
      return { message: 'Revocation started' }
    }),
  )
}

/** Only the person themselves: an admin has no use for another's session, and must not get their key. */
const ownSession = async (tx: Tx, user: UserRecord, id: string): Promise<GrantRecord> => {
  const grant = await tx.grants.get(id)
  if (grant && grant.userId === user.id && grantPhase(grant) === 'active') return grant
  throw forbidden('there is no such active session of yours')
}

const sessionRoutes = (app: FastifyInstance, service: Service): void => {
  const { deps, store } = service
  const path = '/api/user/v1/access-sessions'

  app.get(path, (request) =>
    store.read(async (tx) => {
      const user = await userCaller(tx, request)
      const page = await tx.grants.page({
        ...pageQuery(request.query),
        userId: user.id,
        phase: 'active',
        newestFirst: true,
      })
      const [integrations, requests] = [
        queryList(request.query, 'integration_id'),
        queryList(request.query, 'request_ids'),
      ]
      const kept = page.items.filter(
        (grant) =>
          (integrations?.includes(grant.integration.id) ?? true) && (requests?.includes(grant.requestId) ?? true),
      )
      return pageModel(kept.map(sessionModel), page)
    }),
  )

  app.get<ById>(`${path}/:id`, (request) =>
    store.read(async (tx) => sessionModel(await ownSession(tx, await userCaller(tx, request), request.params.id))),
  )

  app.get<ById>(`${path}/:id/access-details`, async (request, reply) => {
    const details = await store.write(async (tx) => {
      const user = await userCaller(tx, request)
      return accessDetails(tx, deps, user, await ownSession(tx, user, request.params.id))
    })
    return reply.header('cache-control', 'no-store').send(details)
  })
}

/** Without access flows (they decide who may ask for what), everybody may ask for everything; approval decides. */
const availableRoutes = (app: FastifyInstance, { store }: Service): void => {
  app.get('/api/user/v1/available-access/entitlements', (request) =>
    store.read(async (tx) => {
      await userCaller(tx, request)
      const all = (await availableTargets(tx)).flatMap((target) =>
        permissionsOf(target.integration).map((permission) => availableEntitlement(target, permission)),
      )
      const wanted = {
        integrationId: queryList(request.query, 'integration_id'),
        integrationName: queryList(request.query, 'integration_name'),
        resource: queryList(request.query, 'resource_name'),
        permission: queryList(request.query, 'permission_name'),
      }
      const kept = all.filter(
        ({ integration, resource, permission }) =>
          (wanted.integrationId?.includes(integration.id) ?? true) &&
          (wanted.integrationName?.includes(integration.name) ?? true) &&
          (wanted.resource?.includes(resource.name) ?? true) &&
          (wanted.permission?.includes(permission.name) ?? true),
      )
      const { limit, after } = pageQuery(request.query)
      const start = after ?? 0
      const next = start + limit < kept.length ? start + limit : null
      return pageModel(kept.slice(start, start + limit), { next })
    }),
  )
}

/** The vendor's API for the people who ask for access. */
export const userApi = (app: FastifyInstance, service: Service): void => {
  requestRoutes(app, service)
  sessionRoutes(app, service)
  availableRoutes(app, service)
}
