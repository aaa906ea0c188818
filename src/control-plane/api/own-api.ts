import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { ConnectorId } from '../../protocol/calls.ts'
import { audit } from '../access/audit.ts'
import { reserveConnector } from '../access/connectors.ts'
import { notFound } from '../access/domain-error.ts'
import { abandonGrant } from '../access/grants.ts'
import { parseInput } from '../access/input.ts'
import { switchIntegration } from '../access/integrations.ts'
import type { RequestRecord, UserRecord } from '../access/model.ts'
import { approveRequest, extendRequest, rejectRequest } from '../access/requests.ts'
import { connectorToken, issueToken, removeTokens, userToken } from '../access/tokens.ts'
import { createUser } from '../access/users.ts'
import type { Service } from '../service.ts'
import type { Tx } from '../store/store.ts'
import { adminCaller, userCaller } from './auth.ts'
import { pageModel, pageQuery } from './paging.ts'
import { grantModel, integrationModel, requestModel } from './vendor-models.ts'

type ById = { Params: { id: string } }

const userModel = (user: UserRecord) => ({
  id: user.id,
  email: user.email,
  login: user.login,
  role: user.role,
  created_at: new Date(user.createdAt).toISOString(),
})

const userRoutes = (app: FastifyInstance, service: Service): void => {
  const { deps, store } = service

  app.get('/api/v1/users', (request) =>
    store.read(async (tx) => {
      await adminCaller(tx, request)
      const page = await tx.users.page(pageQuery(request.query))
      return pageModel(page.items.map(userModel), page)
    }),
  )

  app.get('/api/v1/users/me', (request) => store.read(async (tx) => userModel(await userCaller(tx, request))))

  app.post('/api/v1/users', (request) =>
    service.change(async (tx) => {
      const admin = await adminCaller(tx, request)
      return userModel(await createUser(tx, deps, admin.id, request.body))
    }),
  )
}

const TokenInput = z.object({ connector_id: ConnectorId.nullish() })

/** A token is shown in this answer and never again. */
const tokenRoutes = (app: FastifyInstance, service: Service): void => {
  const { deps } = service

  app.post<ById>('/api/v1/users/:id/tokens', async (request, reply) => {
    const token = await service.change(async (tx) => {
      const admin = await adminCaller(tx, request)
      const user = await tx.users.get(request.params.id)
      if (!user) throw notFound('user')
      await audit(tx, deps, admin.id, 'token.created', user.id, { kind: 'user' })
      return issueToken(tx, deps, userToken(user.id))
    })
    return reply.header('cache-control', 'no-store').send({ token })
  })

  app.delete<ById>('/api/v1/users/:id/tokens', async (request, reply) => {
    await service.change(async (tx) => {
      const admin = await adminCaller(tx, request)
      const user = await tx.users.get(request.params.id)
      if (!user) throw notFound('user')
      await removeTokens(tx, deps, admin.id, user.id, await tx.tokens.byUser(user.id))
    })
    return reply.code(204).send()
  })

  app.delete<ById>('/api/v1/connector-tokens/:id', async (request, reply) => {
    await service.change(async (tx) => {
      const admin = await adminCaller(tx, request)
      const connector = await tx.connectors.get(request.params.id)
      if (!connector) throw notFound('connector')
      await removeTokens(tx, deps, admin.id, connector.id, await tx.tokens.byConnector(connector.id))
    })
    return reply.code(204).send()
  })

  app.post('/api/v1/connector-tokens', async (request, reply) => {
    const made = await service.change(async (tx) => {
      const admin = await adminCaller(tx, request)
      const { connector_id } = parseInput(TokenInput, request.body ?? {})
      const connectorId = connector_id ?? null
      if (connectorId !== null) await reserveConnector(tx, connectorId)
      await audit(tx, deps, admin.id, 'token.created', connectorId ?? '', { kind: 'connector' })
      return { token: await issueToken(tx, deps, connectorToken(connectorId)), connector_id: connectorId }
    })
    return reply.header('cache-control', 'no-store').send(made)
  })
}

type Decision = (tx: Tx, admin: UserRecord, id: string, body: unknown) => Promise<RequestRecord>

const decisionRoutes = (app: FastifyInstance, service: Service): void => {
  const { deps } = service
  const decisions: Readonly<Record<string, Decision>> = {
    approve: (tx, admin, id) => approveRequest(tx, deps, admin, id),
    reject: (tx, admin, id) => rejectRequest(tx, deps, admin, id),
    extend: (tx, admin, id, body) => extendRequest(tx, deps, admin, id, body),
  }
  for (const [verb, decide] of Object.entries(decisions)) {
    app.post<ById>(`/api/v1/access-requests/:id/${verb}`, (request) =>
      service.change(async (tx) => {
        const admin = await adminCaller(tx, request)
        return requestModel(tx, await decide(tx, admin, request.params.id, request.body))
      }),
    )
  }
}

const integrationRoutes = (app: FastifyInstance, service: Service): void => {
  for (const [verb, disabled] of [
    ['disable', true],
    ['enable', false],
  ] as const) {
    app.post<ById>(`/api/v1/integrations/:id/${verb}`, (request) =>
      service.change(async (tx) => {
        const admin = await adminCaller(tx, request)
        return integrationModel(tx, await switchIntegration(tx, service.deps, admin.id, request.params.id, disabled))
      }),
    )
  }
}

const AbandonInput = z.object({ reason: z.string().trim().min(1, 'required').max(1000) })

const grantRoutes = (app: FastifyInstance, service: Service): void => {
  const { deps, store } = service

  app.get('/api/v1/grants', (request) =>
    store.read(async (tx) => {
      await adminCaller(tx, request)
      const page = await tx.grants.page({ ...pageQuery(request.query), newestFirst: true })
      return pageModel(page.items.map(grantModel), page)
    }),
  )

  app.get<ById>('/api/v1/grants/:id', (request) =>
    store.read(async (tx) => {
      await adminCaller(tx, request)
      const grant = await tx.grants.get(request.params.id)
      if (!grant) throw notFound('grant')
      return grantModel(grant)
    }),
  )

  app.post<ById>('/api/v1/grants/:id/abandon', (request) =>
    service.change(async (tx) => {
      const admin = await adminCaller(tx, request)
      const { reason } = parseInput(AbandonInput, request.body)
      const grant = await tx.grants.get(request.params.id)
      if (!grant) throw notFound('grant')
      return grantModel(await abandonGrant(tx, deps, grant, admin.id, reason))
    }),
  )

  app.get('/api/v1/audit', (request) =>
    store.read(async (tx) => {
      await adminCaller(tx, request)
      const page = await tx.audit.page({ ...pageQuery(request.query), newestFirst: true })
      const items = page.items.map(({ at, ...entry }) => ({ at: new Date(at).toISOString(), ...entry }))
      return pageModel(items, page)
    }),
  )
}

/** What the vendor's public API has no word for. */
export const ownApi = (app: FastifyInstance, service: Service): void => {
  userRoutes(app, service)
  tokenRoutes(app, service)
  decisionRoutes(app, service)
  integrationRoutes(app, service)
  grantRoutes(app, service)
}
