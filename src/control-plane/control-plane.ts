/**
 * The control plane that ships with the connector: it keeps who may be where until when, hands out the jobs that make
 * it so, and serves the public API. One process over one SQLite file.
 *
 * What lives here: `store/` (records), `access/` (the domain), `api/` (HTTP), and this folder's files that put them
 * together. What may enter: connectors by protocol.md, people by the public API. What never does: a server's private
 * key, or a connection to a server; only connectors have those.
 */
import { randomBytes } from 'node:crypto'
import { mkdir, readFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { dirname } from 'node:path'
import type { FastifyInstance } from 'fastify'
import type { Clock } from '../observability/clock.ts'
import type { Logger } from '../observability/log.ts'
import type { Random } from '../observability/random.ts'
import { DEFAULT_KNOBS, type Knobs } from '../protocol/calls.ts'
import { Defects } from './access/attempt.ts'
import type { Deps } from './access/deps.ts'
import { createKeySeal } from './access/key-seal.ts'
import { closeListener, createHttpServerFor, type TlsFiles } from './api/http-server.ts'
import type { ControlPlaneConfig } from './config.ts'
import { loadEncryptionKey } from './encryption-key.ts'
import { firstTokenShown, issueFirstAdminToken, prepareFirstStart, replaceConnectorToken } from './first-start.ts'
import { createService } from './service.ts'
import { openSqliteStore } from './store/sqlite.ts'
import { runTimer } from './timer.ts'

export interface ControlPlaneOptions {
  readonly clock: Clock
  readonly log: Logger
  readonly random?: Random
  /** What connectors are told about waits and leases. */
  readonly knobs?: Partial<Knobs>
  /** For a connector in the same process: where TLS is on, listen on a port of 127.0.0.1 as well, without it. */
  readonly loopback?: boolean
}

export interface ControlPlane {
  /** Where it listens, e.g. `https://127.0.0.1:8443`. */
  readonly url: string
  /** For a connector in the same process; `url` where that is on loopback already. */
  readonly loopbackUrl: string
  readonly controlPlaneId: string
  /** Until somebody has been shown one, and only if the deployment brought none. It can't be shown again. */
  readonly firstAdminToken: string | null
  /** It was printed: later starts make none. */
  firstAdminTokenShown(): Promise<void>
  /** For a connector in the same process. It replaces the one that was made before under the same label. */
  createConnectorToken(connectorId: string, label?: string): Promise<string>
  /** Ends long polls with 204, finishes what is being answered, closes the database. May be called twice. */
  stop(): Promise<void>
}

const readTls = async (tls: ControlPlaneConfig['tls']): Promise<TlsFiles | null> =>
  tls && { cert: await readFile(tls.certFile), key: await readFile(tls.keyFile) }

const urlOf = (app: FastifyInstance, host: string, tls: TlsFiles | null): string => {
  const { port } = app.server.address() as AddressInfo
  return `${tls ? 'https' : 'http'}://${host.includes(':') ? `[${host}]` : host}:${port}`
}

/** Only this user may look into the folder: the database holds everyone's login and the key of the keys. */
const makeFolders = async (config: ControlPlaneConfig): Promise<void> => {
  await mkdir(config.stateDir, { recursive: true, mode: 0o700 })
  if (config.databasePath !== ':memory:') await mkdir(dirname(config.databasePath), { recursive: true, mode: 0o700 })
}

const openStore = async (config: ControlPlaneConfig, options: ControlPlaneOptions) => {
  const random = options.random ?? randomBytes
  await makeFolders(config)
  const seal = createKeySeal(await loadEncryptionKey(config, random), random)
  const { clock, log } = options
  const deps: Deps = { clock, log, random, seal, knobs: { ...DEFAULT_KNOBS, ...options.knobs }, defects: new Defects() }
  return { deps, store: openSqliteStore(config.databasePath) }
}

/** Resolves when it listens. A failure leaves nothing open. */
export const startControlPlane = async (
  config: ControlPlaneConfig,
  options: ControlPlaneOptions,
): Promise<ControlPlane> => {
  const tls = await readTls(config.tls)
  const { deps, store } = await openStore(config, options)
  const stopping = new AbortController()
  const service = createService(deps, store, stopping.signal)
  const app = createHttpServerFor(service, tls)
  const inside = tls && options.loopback ? createHttpServerFor(service, null) : app
  let timer: Promise<void> = Promise.resolve()

  const shutDown = async (): Promise<void> => {
    stopping.abort()
    await Promise.all([closeListener(app), closeListener(inside)])
    await timer
    await store.close()
  }

  try {
    const first = await prepareFirstStart(store, deps, config)
    await app.listen({ ...config.listen })
    if (inside !== app) await inside.listen({ host: '127.0.0.1', port: 0 })
    timer = runTimer(service)
    const firstAdminToken = await service.change((tx) => issueFirstAdminToken(tx, deps, first.adminId))
    const url = urlOf(app, config.listen.host, tls)
    deps.log.info({ event: 'listening', url, controlPlaneId: first.controlPlaneId }, 'control plane listens')
    let stopped: Promise<void> | undefined
    return {
      controlPlaneId: first.controlPlaneId,
      firstAdminToken,
      firstAdminTokenShown: () => store.write(firstTokenShown),
      url,
      loopbackUrl: inside === app ? url : urlOf(inside, '127.0.0.1', null),
      createConnectorToken: (id, label = 'standalone') =>
        service.change((tx) => replaceConnectorToken(tx, deps, id, label)),
      stop: () => {
        stopped ??= shutDown()
        return stopped
      },
    }
  } catch (error) {
    await shutDown()
    throw error
  }
}
