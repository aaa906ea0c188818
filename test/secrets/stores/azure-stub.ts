import { randomBytes, randomUUID } from 'node:crypto'
import http, { type IncomingMessage, type RequestListener } from 'node:http'
import https from 'node:https'
import type { AddressInfo } from 'node:net'
import { type KeyVaultSecret, SecretClient } from '@azure/keyvault-secrets'
import { type Certificate, selfSigned } from './certificates.ts'

// OURS, not Azure's: no emulator of Key Vault can be had from a package registry (docs/testing.md). Written after the REST
// reference: the challenge that unauthenticated requests get, api-version, secrets and their versions, disabled ones, the
// bodies of errors; and beside it the token endpoint that App Service gives a managed identity. Codes of errors are
// Azure's; messages say the same in words of ours where the reference has none. What it proves is that the official
// clients understand us, not that Azure behaves like this.

export type AzureStub = {
  /** https, of a certificate that nobody knows: trust `certificate.cert`. */
  vaultUrl: string
  certificate: Certificate
  /** For IDENTITY_ENDPOINT and IDENTITY_HEADER: then ManagedIdentityCredential comes here for its tokens. */
  identity: { endpoint: string; header: string }
  /** One more token that is good here. */
  token(): string
  /** From here on no token is good any more that was given out so far. */
  expireTokens(): void
  /** As somebody with access to everything: a new version; gives its id. */
  put(secret: AzureSecretInput): string
  remove(name: string): void
  /** Nobody has the right to read it any more. */
  forbid(name: string): void
  calls(): readonly AzureCall[]
  stop(): Promise<void>
}

export type AzureSecretInput = {
  name: string
  value: string
  contentType?: string
  tags?: Readonly<Record<string, string>>
  enabled?: boolean
}

export type AzureCall = { method: string; path: string; status: number }

type Version = Omit<AzureSecretInput, 'name'> & { version: string; created: number }

type Vault = {
  url: string
  tokens: Set<string>
  secrets: Map<string, Version[]>
  forbidden: Set<string>
  calls: AzureCall[]
}

type Answer = { status: number; headers?: Record<string, string>; body: unknown }

const TENANT = '72f988bf-0000-4000-8000-2d7cd011db47'
const RESOURCE = 'https://vault.azure.net'
const TOKEN_SECONDS = 86_400

export const startAzureStub = async (options: { certificate?: Certificate } = {}): Promise<AzureStub> => {
  const certificate = options.certificate ?? (await selfSigned())
  const vault: Vault = { url: '', tokens: new Set(), secrets: new Map(), forbidden: new Set(), calls: [] }
  const header = randomUUID()
  const server = https.createServer(
    { ...certificate },
    listener(vault, (request, body) => serve(vault, request, body)),
  )
  const identity = http.createServer(listener(vault, (request) => serveIdentity(vault, header, request)))
  const [port, identityPort] = await Promise.all([listen(server), listen(identity)])
  vault.url = `https://127.0.0.1:${port}`
  return {
    vaultUrl: vault.url,
    certificate,
    identity: { endpoint: `http://127.0.0.1:${identityPort}/metadata/identity/oauth2/token`, header },
    token: () => newToken(vault),
    expireTokens: () => vault.tokens.clear(),
    put: ({ name, ...rest }) => idOf(vault, name, add(vault, name, rest)),
    remove: (name) => void vault.secrets.delete(name.toLowerCase()),
    forbid: (name) => void vault.forbidden.add(name.toLowerCase()),
    calls: () => vault.calls,
    stop: async () => void (await Promise.all([server, identity].map(close))),
  }
}

/** By the official client and the REST API, as somebody with a token that is good. */
export const putSecret = (stub: AzureStub, { name, value, ...rest }: AzureSecretInput): Promise<KeyVaultSecret> =>
  azureClient(stub, stub.token()).setSecret(name, value, {
    ...(rest.tags === undefined ? {} : { tags: { ...rest.tags } }),
    ...(rest.contentType === undefined ? {} : { contentType: rest.contentType }),
    ...(rest.enabled === undefined ? {} : { enabled: rest.enabled }),
  })

/** The official client with a token that never changes. */
export const azureClient = ({ vaultUrl, certificate }: AzureStub, token: string): SecretClient => {
  const credential = { getToken: async () => ({ token, expiresOnTimestamp: Date.now() + 3_600_000 }) }
  return new SecretClient(vaultUrl, credential, {
    // The challenge names vault.azure.net, and we are at 127.0.0.1.
    disableChallengeResourceVerification: true,
    tlsOptions: { ca: certificate.cert },
  })
}

const listen = async (server: http.Server | https.Server): Promise<number> => {
  server.on('tlsClientError', () => undefined)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return (server.address() as AddressInfo).port
}

const close = async (server: http.Server | https.Server): Promise<void> => {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()))
  server.closeAllConnections()
  await closed
}

const listener =
  (vault: Vault, answer: (request: IncomingMessage, body: string) => Answer): RequestListener =>
  async (request, response) => {
    let text = ''
    for await (const chunk of request) text += chunk
    const { status, headers, body } = answer(request, text)
    vault.calls.push({ method: request.method ?? '', path: request.url ?? '', status })
    response.writeHead(status, { 'content-type': 'application/json; charset=utf-8', ...headers })
    response.end(JSON.stringify(body))
  }

const serve = (vault: Vault, request: IncomingMessage, body: string): Answer => {
  const [scheme, token = ''] = (request.headers.authorization ?? '').split(' ')
  if (scheme !== 'Bearer') return unauthorized('AKV10000: Request is missing a Bearer or PoP token.')
  if (!vault.tokens.has(token)) return unauthorized('Error validating token.')
  const url = new URL(request.url ?? '/', vault.url)
  if (!url.searchParams.has('api-version')) return failure(400, 'BadParameter', 'api-version must be specified')
  const [, collection, name = '', version = ''] = url.pathname.split('/')
  if (collection !== 'secrets' || !/^[0-9a-zA-Z-]{1,127}$/.test(name)) return failure(404, 'NotFound', 'No such path.')
  if (vault.forbidden.has(name.toLowerCase()))
    return forbidden('Caller is not authorized to perform action on resource.')
  if (request.method === 'GET') return read(vault, name, version)
  if (request.method === 'PUT' && version === '') return write(vault, name, body)
  return failure(405, 'MethodNotAllowed', 'The method is not allowed.')
}

const read = (vault: Vault, name: string, version: string): Answer => {
  const versions = vault.secrets.get(name.toLowerCase())
  const wanted = version === '' ? versions?.at(-1) : versions?.find((each) => each.version === version)
  if (wanted === undefined) {
    return failure(404, 'SecretNotFound', `A secret with (name/id) ${name} was not found in this key vault.`)
  }
  if (wanted.enabled === false) {
    return forbidden('Operation get is not allowed on a disabled secret.', 'SecretDisabled')
  }
  return { status: 200, body: bundle(vault, name, wanted) }
}

const write = (vault: Vault, name: string, body: string): Answer => {
  const { value, contentType, tags, attributes } = JSON.parse(body)
  const added = add(vault, name, { value, contentType, tags, enabled: attributes?.enabled ?? true })
  return { status: 200, body: bundle(vault, name, added) }
}

const add = (vault: Vault, name: string, content: Omit<AzureSecretInput, 'name'>): Version => {
  const version = { ...content, version: randomBytes(16).toString('hex'), created: Math.floor(Date.now() / 1000) }
  vault.secrets.set(name.toLowerCase(), [...(vault.secrets.get(name.toLowerCase()) ?? []), version])
  return version
}

const idOf = (vault: Vault, name: string, { version }: Version): string => `${vault.url}/secrets/${name}/${version}`

const bundle = (vault: Vault, name: string, { value, contentType, tags, enabled = true, ...rest }: Version) => ({
  value,
  contentType,
  id: idOf(vault, name, rest as Version),
  attributes: { enabled, created: rest.created, updated: rest.created, recoveryLevel: 'Recoverable+Purgeable' },
  tags,
})

const failure = (status: number, code: string, message: string): Answer => ({
  status,
  body: { error: { code, message } },
})

const forbidden = (message: string, code = 'ForbiddenByRbac'): Answer => ({
  status: 403,
  body: { error: { code: 'Forbidden', message, innererror: { code } } },
})

const unauthorized = (message: string): Answer => ({
  ...failure(401, 'Unauthorized', message),
  headers: {
    'www-authenticate': `Bearer authorization="https://login.microsoftonline.com/${TENANT}", resource="${RESOURCE}"`,
  },
})

/** As of App Service, api-version 2019-08-01. */
const serveIdentity = (vault: Vault, header: string, request: IncomingMessage): Answer => {
  const url = new URL(request.url ?? '/', 'http://127.0.0.1')
  if (url.pathname !== '/metadata/identity/oauth2/token') return { status: 404, body: { message: 'No such path.' } }
  if (request.headers['x-identity-header'] !== header) return { status: 401, body: { message: 'Wrong header.' } }
  const resource = url.searchParams.get('resource') ?? ''
  if (resource !== RESOURCE) return { status: 400, body: { message: `No access to the resource ${resource}.` } }
  const expires = Math.floor(Date.now() / 1000) + TOKEN_SECONDS
  return {
    status: 200,
    body: {
      access_token: newToken(vault),
      expires_on: String(expires),
      resource,
      token_type: 'Bearer',
      client_id: TENANT,
    },
  }
}

const newToken = (vault: Vault): string => {
  const token = randomBytes(32).toString('base64url')
  vault.tokens.add(token)
  return token
}
