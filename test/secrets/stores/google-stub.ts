import { setTimeout as sleep } from 'node:timers/promises'
import { protos } from '@google-cloud/secret-manager'
import {
  type handleUnaryCall,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServiceDefinition,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js'
import type { Certificate } from './certificates.ts'

// OURS, not Google's: there is no official emulator of Secret Manager, and no other can be had from a package registry
// (docs/testing.md). A real gRPC server of the service's own protos, as they ship in the official client; of its methods
// only AccessSecretVersion, which is all that we call. Others are UNIMPLEMENTED. Errors have Google's codes and the gist of
// its messages. What it proves is that the official client understands us, not that Google behaves like this.

const { AccessSecretVersionRequest, AccessSecretVersionResponse } = protos.google.cloud.secretmanager.v1

export type GoogleStub = {
  /** On 127.0.0.1. */
  port: number
  /** A new version of `projects/PROJECT/secrets/SECRET`; gives its name. */
  put(secret: string, value: string | Uint8Array): string
  /** Disabled or destroyed versions are there and can't be read. */
  setState(version: string, state: VersionState): void
  remove(secret: string): void
  /** Nobody has the right to read it any more. */
  forbid(secret: string): void
  /** What the next calls meet, one each, the first one first; those after them meet `always` or nothing. */
  plan(...faults: readonly GoogleFault[]): void
  always(fault: GoogleFault | null): void
  /** All that came, whatever became of it. */
  calls(): readonly GoogleCall[]
  stop(): void
}

export type VersionState = 'ENABLED' | 'DISABLED' | 'DESTROYED'

export type GoogleFault = {
  delayMs?: number
  /** Takes the call and never answers. */
  hang?: true
  /** One of `status` of @grpc/grpc-js. */
  code?: status
  message?: string
  /** The content arrives with a checksum of another. */
  damage?: true
}

export type GoogleCall = { name: string; authorization: string | undefined }

export type GoogleStubOptions = {
  /** With it the server speaks TLS: only then does gRPC send a token at all. */
  certificate?: Certificate
  /** Whether a call may come in; default: all may, also those without a token. */
  admit?: (token: string | undefined) => boolean
}

type Version = { payload: Buffer; state: VersionState }

type Work = {
  secrets: Map<string, Version[]>
  forbidden: Set<string>
  planned: GoogleFault[]
  always: GoogleFault | null
  calls: GoogleCall[]
  admit: (token: string | undefined) => boolean
}

type AccessRequest = protos.google.cloud.secretmanager.v1.IAccessSecretVersionRequest
type AccessResponse = protos.google.cloud.secretmanager.v1.IAccessSecretVersionResponse

export const startGoogleStub = async ({
  certificate,
  admit = () => true,
}: GoogleStubOptions = {}): Promise<GoogleStub> => {
  const work: Work = { secrets: new Map(), forbidden: new Set(), planned: [], always: null, calls: [], admit }
  const server = new Server()
  const AccessSecretVersion: handleUnaryCall<AccessRequest, AccessResponse> = (call, done) => {
    access(work, call).then((response) => done(null, response), refuse(done))
  }
  server.addService(service, { AccessSecretVersion })
  const port = await listen(server, certificate)
  return {
    port,
    put: (secret, value) => put(work, secret, Buffer.from(value)),
    setState: (version, state) => {
      find(work, version).state = state
    },
    remove: (secret) => void work.secrets.delete(secret),
    forbid: (secret) => void work.forbidden.add(secret),
    plan: (...faults) => void work.planned.push(...faults),
    always: (fault) => {
      work.always = fault
    },
    calls: () => work.calls,
    stop: () => server.forceShutdown(),
  }
}

const service: ServiceDefinition = {
  AccessSecretVersion: {
    path: '/google.cloud.secretmanager.v1.SecretManagerService/AccessSecretVersion',
    requestStream: false,
    responseStream: false,
    requestSerialize: (value: AccessRequest) => Buffer.from(AccessSecretVersionRequest.encode(value).finish()),
    requestDeserialize: (bytes: Buffer) => AccessSecretVersionRequest.decode(bytes),
    responseSerialize: (value: AccessResponse) => Buffer.from(AccessSecretVersionResponse.encode(value).finish()),
    responseDeserialize: (bytes: Buffer) => AccessSecretVersionResponse.decode(bytes),
  },
}

const listen = (server: Server, certificate: Certificate | undefined): Promise<number> => {
  const credentials =
    certificate === undefined
      ? ServerCredentials.createInsecure()
      : ServerCredentials.createSsl(null, [
          { cert_chain: Buffer.from(certificate.cert), private_key: Buffer.from(certificate.key) },
        ])
  return new Promise((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', credentials, (error, port) => (error ? reject(error) : resolve(port)))
  })
}

type Refusal = { code: status; message: string }

const refusal = (code: status, message: string): Error & Refusal => Object.assign(new Error(message), { code })

const refuse =
  (done: sendUnaryData<AccessResponse>) =>
  (error: Refusal): void =>
    done({ code: error.code ?? status.INTERNAL, details: error.message })

const access = async (work: Work, call: ServerUnaryCall<AccessRequest, AccessResponse>): Promise<AccessResponse> => {
  const name = call.request.name ?? ''
  const authorization = call.metadata.get('authorization')[0]?.toString()
  work.calls.push({ name, authorization })
  const fault = work.planned.shift() ?? work.always ?? {}
  if (fault.delayMs) await sleep(fault.delayMs, undefined, { ref: false })
  if (fault.hang) await new Promise(() => undefined)
  if (fault.code !== undefined) throw refusal(fault.code, fault.message ?? `planned: ${status[fault.code]}`)
  if (!work.admit(authorization?.replace(/^Bearer /, ''))) {
    throw refusal(status.UNAUTHENTICATED, 'Request had invalid authentication credentials.')
  }
  return read(work, name, fault)
}

const read = (work: Work, name: string, fault: GoogleFault): AccessResponse => {
  const [, secret = '', wanted = ''] = /^(projects\/[^/]+\/secrets\/[^/]+)\/versions\/([^/]+)$/.exec(name) ?? []
  if (secret === '') throw refusal(status.INVALID_ARGUMENT, `The resource name ${name} is malformed.`)
  if (work.forbidden.has(secret)) {
    const what = `'secretmanager.versions.access' denied for resource '${name}' (or it may not exist).`
    throw refusal(status.PERMISSION_DENIED, `Permission ${what}`)
  }
  const versions = work.secrets.get(secret)
  if (versions === undefined) throw refusal(status.NOT_FOUND, `Secret [${secret}] not found or has no versions.`)
  // The latest one is the newest, in whatever state it is.
  const full = `${secret}/versions/${wanted === 'latest' ? versions.length : wanted}`
  const { payload, state } = find(work, full)
  if (state !== 'ENABLED') throw refusal(status.FAILED_PRECONDITION, `Secret Version [${full}] is in ${state} state.`)
  const dataCrc32c = crc32c(fault.damage ? Buffer.from('another') : payload)
  return { name: full, payload: { data: payload, dataCrc32c } }
}

const put = (work: Work, secret: string, payload: Buffer): string => {
  const versions = [...(work.secrets.get(secret) ?? []), { payload, state: 'ENABLED' as const }]
  work.secrets.set(secret, versions)
  return `${secret}/versions/${versions.length}`
}

const find = (work: Work, name: string): Version => {
  const [secret = '', number = ''] = name.split('/versions/')
  const version = work.secrets.get(secret)?.[Number(number) - 1]
  if (version === undefined) throw refusal(status.NOT_FOUND, `Secret Version [${name}] not found.`)
  return version
}

/** Of Castagnoli, as the service has it; zlib's is another. */
export const crc32c = (bytes: Uint8Array): number => {
  let sum = 0xffffffff
  for (const byte of bytes) {
    sum ^= byte
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0x82f63b78 : 0)
  }
  return (sum ^ 0xffffffff) >>> 0
}
