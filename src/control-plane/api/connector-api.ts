import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import {
  ClaimRequest,
  type ClaimResponse,
  DeregisterRequest,
  ExpiredReport,
  type GrantsResponse,
  PROTOCOL,
  RegisterRequest,
  type RegisterResponse,
  RenewRequest,
  type RenewResponse,
  Report,
  type ReportResponse,
} from '../../protocol/calls.ts'
import type { Job } from '../../protocol/job.ts'
import { JobRef } from '../../protocol/job.ts'
import { claimJobs } from '../access/claim.ts'
import { deregisterInstance, findInstance, registerInstance, touchInstance } from '../access/connectors.ts'
import { type InputProblem, invalid } from '../access/domain-error.ts'
import { grantOnServer } from '../access/grants.ts'
import { check, parseInput } from '../access/input.ts'
import { renewLease } from '../access/jobs.ts'
import type { InstanceRecord } from '../access/model.ts'
import { acceptReport, unusableReport } from '../access/reports.ts'
import type { Service } from '../service.ts'
import type { Tx } from '../store/store.ts'
import { connectorCaller } from './auth.ts'
import { ApiError, logDefect, sendProblem } from './errors.ts'

const GRANTS_PAGE = 500

/** A batch of inspections with long lists is larger than anything else, and a refused report would come again for ever. */
const REPORT_BODY_LIMIT = 16 * 1024 * 1024

const serverTime = ({ deps }: Service): string => new Date(deps.clock.now()).toISOString()

const callingInstance = async (
  service: Service,
  tx: Tx,
  request: FastifyRequest,
  instanceId: string,
): Promise<InstanceRecord> => {
  const token = await connectorCaller(tx, request)
  const instance = await findInstance(tx, service.deps, token, instanceId)
  if (!instance) throw new ApiError(409, 'unknown_instance', 'register first')
  return instance
}

/** Each call shows that the instance lives. */
const aliveInstance = async (
  service: Service,
  tx: Tx,
  request: FastifyRequest,
  instanceId: string,
): Promise<InstanceRecord> => {
  const instance = await callingInstance(service, tx, request, instanceId)
  await touchInstance(tx, service.deps, instance)
  return instance
}

const register = async (service: Service, request: FastifyRequest): Promise<RegisterResponse> => {
  const body = parseInput(RegisterRequest, request.body)
  if (body.protocol.min > PROTOCOL.max || body.protocol.max < PROTOCOL.min) {
    throw new ApiError(426, 'upgrade_required', `this control plane speaks protocol ${PROTOCOL.min} to ${PROTOCOL.max}`)
  }
  const controlPlaneId = await service.change(async (tx) => {
    const token = await connectorCaller(tx, request)
    const outcome = await registerInstance(tx, service.deps, token, body)
    if (outcome !== 'ok') throw new ApiError(403, outcome, 'this token is not for this connector')
    return tx.meta.get('controlPlaneId')
  })
  const protocol = Math.min(PROTOCOL.max, body.protocol.max)
  return { serverTime: serverTime(service), protocol, controlPlaneId: controlPlaneId ?? '', knobs: service.deps.knobs }
}

interface Patience {
  /** Aborted when the client hangs up, when the process ends, or when the time is over. */
  readonly over: AbortSignal
  start(ms: number): void
  stop(): void
}

const patience = (service: Service, reply: FastifyReply): Patience => {
  const done = new AbortController()
  const stop = () => done.abort()
  reply.raw.once('close', stop)
  const over = AbortSignal.any([done.signal, service.stopping])
  return { over, stop, start: (ms) => void service.deps.clock.sleep(ms, over).then(stop, () => undefined) }
}

const claimOnce = (service: Service, request: FastifyRequest, body: ClaimRequest, first: boolean) =>
  service.store.write(async (tx) => {
    const find = first ? aliveInstance : callingInstance
    const instance = await find(service, tx, request, body.instanceId)
    return claimJobs(tx, service.deps, instance, body)
  })

/** Looks, and looks again whenever something changed, until there is work or patience ends. */
const waitForJobs = async (
  service: Service,
  request: FastifyRequest,
  body: ClaimRequest,
  { over, start }: Patience,
): Promise<readonly Job[]> => {
  for (let first = true; ; first = false) {
    const seen = service.work.version
    const jobs = await claimOnce(service, request, body, first)
    if (jobs.length > 0) return jobs
    if (first) start(Math.min(body.waitMs, service.deps.knobs.claimWaitMs))
    await service.work.changedSince(seen, over)
    if (over.aborted) return []
  }
}

const claim = async (service: Service, request: FastifyRequest, reply: FastifyReply): Promise<void> => {
  const body = parseInput(ClaimRequest, request.body)
  const waiting = patience(service, reply)
  try {
    const jobs = await waitForJobs(service, request, body, waiting)
    if (jobs.length === 0) {
      reply.code(204).send()
      return
    }
    service.schedule.notify()
    const answer: ClaimResponse = { serverTime: serverTime(service), jobs: [...jobs] }
    reply.send(answer)
  } finally {
    waiting.stop()
  }
}

const renew = async (service: Service, request: FastifyRequest): Promise<RenewResponse> => {
  const body = parseInput(RenewRequest, request.body)
  const results = await service.store.write(async (tx) => {
    const instance = await aliveInstance(service, tx, request, body.instanceId)
    const statuses: RenewResponse['results'] = []
    for (const { jobId, epoch } of body.inFlight) {
      statuses.push({ jobId, epoch, status: await renewLease(tx, service.deps, instance, { jobId, epoch }) })
    }
    return statuses
  })
  return { serverTime: serverTime(service), results }
}

const GrantRef = ExpiredReport.pick({ grantId: true, generation: true })
type Incoming =
  | { readonly report: Report }
  | { readonly unread: z.infer<typeof GrantRef> | null; readonly problems: readonly InputProblem[] }

const ReportEnvelope = z.object({ instanceId: z.string(), reports: z.array(z.unknown()).min(1).max(1000) })

/**
 * A connector repeats a report until it is taken, so one that we can't read must not hold up the others for ever: if
 * it names its job it counts as that job's failure, if it names a grant it is let go, and else nobody waits for it.
 */
const readReport = (service: Service, input: unknown, index: number): Incoming => {
  const parsed = check(Report, input, ['reports', index])
  if (parsed.ok) return { report: parsed.value }
  const [problem] = parsed.problems
  const message = `the report is not readable: ${problem?.path}: ${problem?.message}`
  service.deps.log.warn({ event: 'report_unreadable', problem: message.slice(0, 1000) }, 'a report is not readable')
  const ref = JobRef.safeParse(input)
  if (!ref.success) return { unread: GrantRef.safeParse(input).data ?? null, problems: parsed.problems }
  return { report: { ...ref.data, at: serverTime(service), outcome: 'failed', error: unusableReport(message) } }
}

const keyOf = (report: Report) =>
  report.outcome === 'expired'
    ? { grantId: report.grantId, generation: report.generation }
    : { jobId: report.jobId, epoch: report.epoch }

/** From any instance of the connector: the one that did the work may be gone. */
const report = async (service: Service, request: FastifyRequest): Promise<ReportResponse> => {
  const body = parseInput(ReportEnvelope, request.body)
  const reports = body.reports.map((input, index) => readReport(service, input, index))
  const nameless = reports.flatMap((one) => ('report' in one || one.unread ? [] : one.problems))
  if (reports.every((one) => !('report' in one) && !one.unread)) throw invalid(nameless)
  const results = await service.change(async (tx) => {
    const { connectorId } = await aliveInstance(service, tx, request, body.instanceId)
    const statuses: ReportResponse['results'] = []
    for (const one of reports) {
      if ('report' in one) {
        const status = await acceptReport(tx, service.deps, connectorId, one.report)
        statuses.push({ ...keyOf(one.report), status })
      } else if (one.unread) statuses.push({ ...one.unread, status: 'stale' })
    }
    return statuses
  })
  return { results }
}

const GrantsQuery = z.looseObject({
  after: z
    .string()
    .regex(/^[1-9][0-9]{0,14}$/, 'is not one of ours')
    .optional(),
})

const grants = async (service: Service, request: FastifyRequest): Promise<GrantsResponse> => {
  return service.store.read(async (tx) => {
    const { connectorId } = await connectorCaller(tx, request)
    const { after } = parseInput(GrantsQuery, request.query)
    if (connectorId === null) throw new ApiError(409, 'unknown_instance', 'register first')
    const query = { connectorId, limit: GRANTS_PAGE, after: after === undefined ? null : Number(after) }
    const page = await tx.grants.openOfConnector(query)
    const entries: GrantsResponse['grants'] = []
    for (const grant of page.items) {
      entries.push({ integration: grant.integration, ...(await grantOnServer(tx, grant)) })
    }
    const next = page.next === null ? null : String(page.next)
    return { serverTime: serverTime(service), grants: entries, next }
  })
}

const deregister = async (service: Service, request: FastifyRequest, reply: FastifyReply): Promise<void> => {
  const body = parseInput(DeregisterRequest, request.body)
  await service.change(async (tx) => {
    const instance = await callingInstance(service, tx, request, body.instanceId)
    await deregisterInstance(tx, service.deps, instance, body.release)
  })
  reply.code(204).send()
}

/** protocol.md, on the control plane's side. */
export const connectorApi = (service: Service) => async (app: FastifyInstance) => {
  app.setErrorHandler((error, request, reply) => {
    logDefect(service.deps.log, request, error)
    sendProblem(reply, error)
  })
  app.setNotFoundHandler((_request, reply) => sendProblem(reply, new ApiError(404, 'not_found', 'no such call')))
  // Before the body is read: who has no token learns nothing about what a body should be like, and fills no memory.
  app.addHook('onRequest', async (request) => {
    await service.store.read((tx) => connectorCaller(tx, request))
  })
  app.post('/register', (request) => register(service, request))
  app.post('/claim', (request, reply) => claim(service, request, reply).then(() => reply))
  app.post('/renew', (request) => renew(service, request))
  app.post('/report', { bodyLimit: REPORT_BODY_LIMIT }, (request) => report(service, request))
  app.get('/grants', (request) => grants(service, request))
  app.post('/deregister', (request, reply) => deregister(service, request, reply).then(() => reply))
}
