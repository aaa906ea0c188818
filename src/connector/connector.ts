import { randomUUID } from 'node:crypto'
import type { HostProgram } from '../host/host-program.ts'
import type { Clock } from '../observability/clock.ts'
import { createHealth, serveHealth } from '../observability/health.ts'
import type { Logger } from '../observability/log.ts'
import { createMetrics } from '../observability/metrics.ts'
import { DEFAULT_KNOBS, type KnownGrant, PROTOCOL, type RegisterRequest } from '../protocol/calls.ts'
import { createKeyRing } from '../secrets/key-ring.ts'
import type { Environment } from '../secrets/network.ts'
import type { BreakerEvent } from '../ssh/breaker.ts'
import { createTransport } from '../ssh/transport.ts'
import { type Resolve, resolveHost } from './addresses.ts'
import { createApiClient } from './api-client.ts'
import { claimLoop } from './claim.ts'
import type { Config } from './config.ts'
import { executeExpiry } from './executor.ts'
import { expireLoop } from './expire.ts'
import { createGuard, type Guard } from './guard.ts'
import { watchGuardFile } from './guard-file-watch.ts'
import { openJournal } from './journal.ts'
import { createKnownGrants } from './known-grants.ts'
import { hostKeySource } from './known-hosts-file.ts'
import { createLeases } from './leases.ts'
import { createOutage } from './outage.ts'
import { createRegistration } from './register.ts'
import { renewLoop } from './renew.ts'
import { createOutbox } from './report.ts'
import { resyncLoop } from './resync.ts'
import { type OpenedStores, openStores } from './secret-stores.ts'
import { shutDown } from './shutdown.ts'
import { createSkew } from './skew.ts'
import { createSlots } from './slots.ts'
import { createTokenSource } from './token.ts'
import { createWakeup } from './wakeup.ts'
import { startWork } from './work.ts'

export interface ConnectorDeps {
  readonly clock: Clock
  readonly log: Logger
  /** Cryptographically random bytes; back-off and nonces are made of them. */
  readonly random: (bytes: number) => Buffer
  /** Of the process: where vendors' libraries look for identities and proxies. */
  readonly environment: Environment
  readonly hostProgram: HostProgram
  /** Of this software, as it is told to the control plane. */
  readonly version: string
  /** Only `standalone`, demo and tests: servers may be on this machine. Default false. */
  readonly allowLoopback?: boolean
  readonly resolve?: Resolve
}

export interface Connector {
  readonly instanceId: string
  /** The port that health is served on; null where it is off. */
  readonly healthPort: number | null
  /** Ends work in flight, releases the rest, flushes, deregisters. At most 25 s. May be called again. */
  stop(): Promise<void>
  /** Resolves when stopped. Nothing else ends a connector. */
  readonly done: Promise<void>
}

const registerRequest = (
  config: Config,
  deps: ConnectorDeps,
  instanceId: string,
  stores: OpenedStores,
): RegisterRequest => ({
  connectorId: config.connectorId,
  instanceId,
  version: deps.version,
  protocol: PROTOCOL,
  cloud: { provider: stores.cloud.provider },
  secretStores: [...stores.types],
  slots: config.slots,
})

const guardOf = ({ deadlines, secretDirectory, guardFile }: Config, deps: ConnectorDeps, log: Logger): Guard => {
  const { clock, resolve = resolveHost, allowLoopback = false } = deps
  const options = { clock, resolve, resolveTimeoutMs: deadlines.tcpMs, secretDirectory, allowLoopback }
  return createGuard(options, guardFile === null ? null : watchGuardFile(guardFile, clock, log))
}

const logCircuit = (log: Logger, { server, state, failures, waitMs, code }: BreakerEvent): void => {
  const fields = { event: `circuit_${state}`, server, failures, waitMs: waitMs || undefined, code: code ?? undefined }
  if (state === 'open') log.warn(fields, 'server is left alone for a while')
  else log.info(fields, state === 'closed' ? 'server is well again' : 'server is tried again')
}

const fraction = (random: ConnectorDeps['random']) => (): number => random(4).readUInt32BE() / 2 ** 32

/**
 * Starts a connector: three loops (claim, renew, report) around what they share. It needs no control plane to start,
 * and outlives its absence. Rejects only when the health endpoint cannot listen, or a file that was checked is broken by now.
 */
export const startConnector = async (config: Config, deps: ConnectorDeps): Promise<Connector> => {
  const instanceId = randomUUID()
  const { clock } = deps
  const log = deps.log.child({ instance: instanceId })
  const stores = await openStores(config, deps)

  // What the loops share.
  const { url, clientCertificate } = config
  const token = createTokenSource(config.token)
  const api = createApiClient({ url, token, clientCertificate, environment: deps.environment })
  const outage = createOutage(clock, log)
  const skew = createSkew(clock, log)
  const journal = openJournal({ clock, log, stateDirectory: config.stateDirectory, url })
  const renewNews = createWakeup(clock)
  const registration = createRegistration({
    api,
    clock,
    log,
    outage,
    skew,
    request: registerRequest(config, deps, instanceId, stores),
    onRegistered: ({ controlPlaneId }) => {
      journal.metControlPlane(controlPlaneId)
      renewNews.wake()
    },
  })
  const knobs = () => registration.current()?.knobs ?? DEFAULT_KNOBS
  const calls = { api, clock, outage, registration, skew, instanceId, random: fraction(deps.random) }
  const leases = createLeases(clock)
  const slots = createSlots(config.slots, clock)
  const outbox = createOutbox({ ...calls, log, journal, onConfirmed: leases.remove })
  const known = createKnownGrants({ clock, journal, random: fraction(deps.random) })
  const staleAfterMs = () => Math.max(120_000, 2 * (knobs().claimWaitMs + 10_000))
  const health = createHealth({ clock, staleAfterMs, isClockSane: skew.isSane })

  // What does the work.
  const released = new Set<string>()
  const keys = createKeyRing({ stores, clock, log, ...config.secretCache })
  const pool = createTransport({
    clock,
    random: deps.random,
    deadlines: config.deadlines,
    limits: config.pool,
    onCircuit: (event) => {
      logCircuit(log, event)
      if (event.state === 'open') metrics.circuitOpened()
    },
  })
  const metrics = createMetrics(pool.stats)
  const executor = {
    clock,
    random: deps.random,
    guard: guardOf(config, deps, log),
    keys,
    pool,
    hostKeys: hostKeySource(config.knownHostsFile, clock, log),
    hostProgram: deps.hostProgram,
    deadlines: config.deadlines,
    skew,
    controlPlaneId: () => registration.current()?.controlPlaneId ?? journal.controlPlaneId() ?? '',
  }
  const start = startWork({
    clock,
    log,
    executor,
    leases,
    slots,
    outbox,
    known,
    jobMaxMs: () => knobs().jobMaxMs,
    isReleased: (lease) => released.has(lease.jobId),
  })

  // The loops.
  const healthServer =
    config.healthListen && (await serveHealth(health, metrics, config.healthListen.host, config.healthListen.port))
  const claiming = new AbortController()
  const living = new AbortController()
  log.info(
    { event: 'started', connectorId: config.connectorId, url: config.url, slots: config.slots },
    'connector started',
  )
  log.info(
    { event: 'secret_stores', cloud: stores.cloud.provider, because: stores.cloud.by, stores: stores.types },
    'where it runs',
  )
  const isReady = () => health.notReady() === null
  const end = (one: KnownGrant, signal: AbortSignal) => executeExpiry(one, signal, executor)
  const loops = [
    // Before the first claim: what is overdue comes first.
    expireLoop({ clock, log, known, skew, outbox, isReady, end }, living.signal),
    resyncLoop({ ...calls, log, known }, living.signal),
    claimLoop(
      {
        ...calls,
        log,
        leases,
        slots,
        health,
        start: (raw, head, lease) => {
          start(raw, head, lease)
          renewNews.wake()
        },
      },
      claiming.signal,
    ),
    renewLoop({ ...calls, leases, wakeup: renewNews }, living.signal),
    outbox.loop(living.signal),
  ]

  // The end.
  const { promise: done, resolve: stopped } = Promise.withResolvers<void>()
  let stopping = false
  const stop = async (): Promise<void> => {
    if (!stopping) {
      stopping = true
      await shutDown({ clock, log, api, leases, slots, outbox, instanceId, registration, released, claiming, living })
      await Promise.allSettled(loops)
      keys.dispose()
      await Promise.all([pool.close(), healthServer?.close(), api.close(), stores.close()])
      journal.close()
      log.info({ event: 'stopped' }, 'connector stopped')
      stopped()
    }
    await done
  }
  return { instanceId, healthPort: healthServer?.port ?? null, stop, done }
}
