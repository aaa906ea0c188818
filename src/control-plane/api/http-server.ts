import { createServer as createHttpServer } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import type { Socket } from 'node:net'
import fastify, { type FastifyInstance } from 'fastify'
import type { Service } from '../service.ts'
import { adminApi } from './admin-api.ts'
import { userCaller } from './auth.ts'
import { connectorApi } from './connector-api.ts'
import { ApiError, logDefect, sendPublicError } from './errors.ts'
import { ownApi } from './own-api.ts'
import { userApi } from './user-api.ts'

const BODY_LIMIT = 1024 * 1024

/** Above a connector's longest pause between two calls, so that it keeps its connection. */
const KEEP_ALIVE_MS = 75_000

export interface TlsFiles {
  readonly cert: Buffer
  readonly key: Buffer
}

/** An empty body with `content-type: application/json` is what many clients send with a bare POST. */
const tolerateEmptyJson = (app: FastifyInstance): void => {
  const parse = app.getDefaultJsonParser('error', 'error')
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) => {
    if (body === '') done(null, undefined)
    else parse(request, body.toString(), done)
  })
}

const publicApi = (service: Service) => async (app: FastifyInstance) => {
  app.setErrorHandler((error, request, reply) => {
    logDefect(service.deps.log, request, error)
    sendPublicError(reply, error)
  })
  app.setNotFoundHandler((_request, reply) => sendPublicError(reply, new ApiError(404, 'not_found', 'no such call')))
  // Before the body is read; each call then looks again, in its own transaction, at who may do what.
  app.addHook('onRequest', async (request) => {
    await service.store.read((tx) => userCaller(tx, request))
  })
  adminApi(app, service)
  userApi(app, service)
  ownApi(app, service)
}

/** What a connection may still finish when the listener closes, milliseconds. */
const CLOSE_GRACE_MS = 2000

/**
 * Ends a listener for certain: what is being answered is finished, and a client that says nothing, or half a request, is
 * cut off. Sockets are remembered as they come, because before a TLS handshake nobody else knows them.
 */
const rememberSockets = (app: FastifyInstance): void => {
  const sockets = new Set<Socket>()
  app.server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  app.decorate('openSockets', sockets)
}

export const closeListener = async (app: FastifyInstance): Promise<void> => {
  const cut = setTimeout(() => {
    for (const socket of app.getDecorator<Set<Socket>>('openSockets')) socket.destroy()
  }, CLOSE_GRACE_MS)
  await app.close()
  clearTimeout(cut)
}

/** All surfaces on one listener. HEAD is left out: reading access details is an act, not a look. */
export const createHttpServerFor = (service: Service, tls: TlsFiles | null): FastifyInstance => {
  const app = fastify({
    logger: false,
    bodyLimit: BODY_LIMIT,
    exposeHeadRoutes: false,
    forceCloseConnections: 'idle',
    serverFactory: (handler) => {
      const options = { keepAliveTimeout: KEEP_ALIVE_MS, noDelay: true }
      return tls
        ? createHttpsServer({ ...options, ...tls, minVersion: 'TLSv1.2' }, handler)
        : createHttpServer(options, handler)
    },
  })
  rememberSockets(app)
  tolerateEmptyJson(app)
  app.get('/healthz', async () => ({ status: 'ok' }))
  app.register(connectorApi(service), { prefix: '/connector/v1' })
  app.register(publicApi(service))
  return app
}
