import { z } from 'zod'
import {
  ClaimRequest,
  ClaimResponse,
  DeregisterRequest,
  GrantsResponse,
  ProblemDetails,
  RegisterRequest,
  RegisterResponse,
  RenewRequest,
  RenewResponse,
  ReportRequest,
  ReportResponse,
} from './calls.ts'

/** One call of the protocol: what both sides agree on, besides the schemas. */
interface Call {
  readonly path: string
  readonly method: 'get' | 'post'
  readonly summary: string
  readonly request?: z.ZodType
  /** Null: an answer without a body. */
  readonly responses: Readonly<Record<number, { readonly description: string; readonly body: z.ZodType | null }>>
}

const problem = (description: string) => ({ description, body: ProblemDetails })

const REFUSALS = {
  401: problem('invalid_token'),
  403: problem('connector_not_allowed: the token, or the instance, belongs to somebody else'),
}
const UNKNOWN_INSTANCE = { 409: problem('unknown_instance: register again') }

export const CALLS: readonly Call[] = [
  {
    path: '/connector/v1/register',
    method: 'post',
    summary: 'Introduce an instance; new at every start',
    request: RegisterRequest,
    responses: {
      200: { description: 'Registered', body: RegisterResponse },
      ...REFUSALS,
      426: problem('upgrade_required: no protocol version in common'),
    },
  },
  {
    path: '/connector/v1/claim',
    method: 'post',
    summary: 'Wait for jobs; one outstanding call per instance',
    request: ClaimRequest,
    responses: {
      200: { description: 'At most freeSlots jobs', body: ClaimResponse },
      204: { description: 'Nothing to do after waitMs', body: null },
      ...REFUSALS,
      ...UNKNOWN_INSTANCE,
    },
  },
  {
    path: '/connector/v1/renew',
    method: 'post',
    summary: 'Renew every lease in one call',
    request: RenewRequest,
    responses: {
      200: { description: 'A status for each lease', body: RenewResponse },
      ...REFUSALS,
      ...UNKNOWN_INSTANCE,
    },
  },
  {
    path: '/connector/v1/report',
    method: 'post',
    summary: 'Progress and outcomes; idempotent on (jobId, epoch), or on (grantId, generation) for expired',
    request: ReportRequest,
    responses: {
      200: { description: 'A status for each report', body: ReportResponse },
      ...REFUSALS,
      ...UNKNOWN_INSTANCE,
    },
  },
  {
    path: '/connector/v1/grants',
    method: 'get',
    summary: 'Every grant that should be present or whose end is not confirmed, in pages',
    responses: { 200: { description: 'One page', body: GrantsResponse }, ...REFUSALS },
  },
  {
    path: '/connector/v1/deregister',
    method: 'post',
    summary: 'Leave in order, and release what was not begun',
    request: DeregisterRequest,
    responses: { 204: { description: 'Gone', body: null }, ...REFUSALS },
  },
]

type Json = Readonly<Record<string, unknown>>

const PREFIX = '#/components/schemas/'

const idOf = (schema: z.ZodType): string => {
  const id = z.globalRegistry.get(schema)?.id
  if (id === undefined) throw new Error('every schema of a call needs an id')
  return id
}

/** `io: input`: what is sent. Members with a default may be left out, and members that are not named are ignored. */
const componentSchemas = (): Json => {
  const { schemas } = z.toJSONSchema(z.globalRegistry, { io: 'input', uri: (id) => `${PREFIX}${id}` })
  const plain = Object.entries(schemas).map(([id, schema]) => {
    const { $schema: _dialect, $id: _id, id: _ownId, ...rest } = schema as Record<string, unknown>
    return [id, rest] as const
  })
  return Object.fromEntries(plain.sort(([a], [b]) => a.localeCompare(b)))
}

const content = (schema: z.ZodType): Json => {
  const type = schema === ProblemDetails ? 'application/problem+json' : 'application/json'
  return { [type]: { schema: { $ref: `${PREFIX}${idOf(schema)}` } } }
}

const operation = ({ summary, method, request, responses }: Call): Json => ({
  [method]: {
    summary,
    ...(method === 'get'
      ? { parameters: [{ name: 'after', in: 'query', required: false, schema: { type: 'string' } }] }
      : {}),
    ...(request ? { requestBody: { required: true, content: content(request) } } : {}),
    responses: Object.fromEntries(
      Object.entries(responses).map(([status, { description, body }]) => [
        status,
        { description, ...(body ? { content: content(body) } : {}) },
      ]),
    ),
  },
})

/** The OpenAPI 3.1 document of the connector protocol, made from the schemas that both sides parse with. */
export const connectorProtocolDocument = (): Json => ({
  openapi: '3.1.0',
  info: {
    title: 'Connector protocol',
    version: '1',
    description: 'Between a connector and a control plane. Generated from src/protocol; do not edit.',
    license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
  },
  security: [{ token: [] }],
  paths: Object.fromEntries(CALLS.map((call) => [call.path, operation(call)])),
  components: {
    securitySchemes: { token: { type: 'http', scheme: 'bearer' } },
    schemas: componentSchemas(),
  },
})

/** As it stands in the repository. */
export const connectorProtocolText = (): string => `${JSON.stringify(connectorProtocolDocument(), null, 2)}\n`

export const DOCUMENT_PATH = new URL('../../docs/connector-protocol.openapi.json', import.meta.url)
