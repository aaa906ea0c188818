/**
 * The surfaces of the control plane: the connector protocol, the vendor's public API, and our own for what that lacks.
 *
 * What lives here: routes, who may call them, and the shape of what goes out. What may enter: HTTP. What never does:
 * decisions about access (those are in `access/`) and SQL. Each call is one transaction.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Logger } from '../../observability/log.ts'
import type { ProblemDetails } from '../../protocol/calls.ts'
import { DomainError, type DomainErrorKind, type InputProblem } from '../access/domain-error.ts'

/** A refusal that belongs to HTTP rather than to the domain. `code` is stable. */
export class ApiError extends Error {
  readonly status: number
  readonly code: string

  constructor(status: number, code: string, message: string) {
    super(message)
    this.name = 'ApiError'
    this.status = status
    this.code = code
  }
}

export const unauthorized = (): ApiError => new ApiError(401, 'invalid_token', 'Unauthorized')

const KINDS: Readonly<Record<DomainErrorKind, { status: number; code: string }>> = {
  invalid: { status: 400, code: 'invalid_request' },
  forbidden: { status: 403, code: 'forbidden' },
  not_found: { status: 404, code: 'not_found' },
  conflict: { status: 409, code: 'conflict' },
}

interface Failure {
  readonly status: number
  readonly code: string
  readonly message: string
  readonly errors: readonly InputProblem[]
}

/** What fastify itself refuses: bodies that are too large, not JSON, or of another type. */
const fromFramework = (error: unknown): Failure | null => {
  const status = error instanceof Error && 'statusCode' in error ? Number(error.statusCode) : 0
  if (!(error instanceof Error) || !(status >= 400 && status < 500)) return null
  const code = { 413: 'body_too_large', 415: 'unsupported_media_type' }[status] ?? 'invalid_request'
  return { status, code, message: error.message, errors: [] }
}

/** Null: a defect of ours, which the caller learns nothing about. */
export const describe = (error: unknown): Failure | null => {
  if (error instanceof ApiError) return { status: error.status, code: error.code, message: error.message, errors: [] }
  if (error instanceof DomainError) return { ...KINDS[error.kind], message: error.message, errors: error.problems }
  return fromFramework(error)
}

const DEFECT: Failure = { status: 500, code: 'internal_error', message: 'Internal error', errors: [] }

/** RFC 9457, for connectors. */
export const sendProblem = (reply: FastifyReply, error: unknown): void => {
  const { status, code, message, errors } = describe(error) ?? DEFECT
  const problem: ProblemDetails = {
    type: 'about:blank',
    title: code.replaceAll('_', ' '),
    status,
    code,
    // A wrong token learns that it is wrong, and nothing else.
    ...(status === 401 ? {} : { detail: message }),
    ...(errors.length > 0 ? { errors: [...errors] } : {}),
  }
  reply.code(status).type('application/problem+json').send(JSON.stringify(problem))
}

const pascal = (code: string): string =>
  code.replace(/(^|_)([a-z])/g, (_match, _edge, letter: string) => letter.toUpperCase())

/** The vendor's shape for 401, extended by its `UpsertErrorModel` and the list of problems for everything else. */
export const sendPublicError = (reply: FastifyReply, error: unknown): void => {
  const { status, code, message, errors } = describe(error) ?? DEFECT
  if (status === 401) {
    reply.code(401).send({ status: '401', code: 'Unauthorized' })
    return
  }
  const name = pascal(code)
  reply
    .code(status)
    .send({ status: String(status), code: name, message, error_code: name, error_details: message, errors })
}

/** What is not a refusal is a mistake of ours, and has to be seen. */
export const logDefect = (log: Logger, request: FastifyRequest, error: unknown): void => {
  if (describe(error)) return
  const { method, routeOptions } = request
  log.error({ event: 'request_failed', method, route: routeOptions.url, err: error }, 'request failed')
}
