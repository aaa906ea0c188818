import { randomUUID } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { type Certificate, selfSigned } from './certificates.ts'
import { type JsonAnswer, startJsonServer } from './json-server.ts'

// OURS, neither Vault nor OpenBao (docs/testing.md says why): KV of both versions, the mount that says which, logins,
// tokens that end, namespaces, and policies by path, after the HTTP API's reference.

export type VaultStub = {
  url: string
  certificate: Certificate
  /** A token that is good from the start. */
  rootToken: string
  /** A new version of it. `kv1` and `kv2` are the engines; in a namespace or in none. */
  put(engine: 'kv1' | 'kv2', path: string, data: object, namespace?: string): void
  remove(engine: 'kv1' | 'kv2', path: string): void
  /** No policy allows it. */
  forbid(path: string): void
  /** Nobody is told any more which version an engine is. */
  hideMounts(): void
  /** Who may log in by a method at this path: given the body, whether it is right. */
  admit(mount: string, isRight: (body: Record<string, string>) => boolean, leaseSeconds?: number): void
  /** No token is good any more that a login gave. */
  expireTokens(): void
  logins(): number
  /** Paths of what was asked for with a token. */
  asked(): readonly string[]
  /** Tokens that logins gave and that are still good. */
  tokens(): number
  /** The same, themselves. */
  tokenNames(): readonly string[]
  stop(): Promise<void>
}

type Version = { data: object; created: string }

const errors = (status: number): JsonAnswer => ({
  status,
  body: { errors: status === 403 ? ['permission denied'] : [] },
})

export const startVaultStub = async (options: { certificate?: Certificate } = {}): Promise<VaultStub> => {
  const certificate = options.certificate ?? (await selfSigned())
  const rootToken = randomUUID()
  const tokens = new Set<string>()
  const secrets = new Map<string, Version[]>()
  const forbidden = new Set<string>()
  const methods = new Map<string, { isRight: (body: Record<string, string>) => boolean; leaseSeconds: number }>()
  let hidden = false
  const asked: string[] = []
  let logins = 0

  const logIn = (mount: string, body: Record<string, string>): JsonAnswer => {
    const method = methods.get(mount)
    logins++
    if (!method?.isRight(body)) return errors(400)
    const token = randomUUID()
    tokens.add(token)
    return {
      status: 200,
      body: { auth: { client_token: token, lease_duration: method.leaseSeconds, renewable: true } },
    }
  }

  const read = (engine: string, path: string, namespace: string): JsonAnswer => {
    const versions = secrets.get(`${namespace}|${engine}/${path}`)
    const latest = versions?.at(-1)
    if (latest === undefined) return errors(404)
    if (engine === 'kv1') return { status: 200, body: { data: latest.data } }
    const metadata = { version: versions?.length, created_time: latest.created, deletion_time: '', destroyed: false }
    return { status: 200, body: { data: { data: latest.data, metadata } } }
  }

  const answer = (request: IncomingMessage, path: string, body: unknown): JsonAnswer => {
    const namespace = String(request.headers['x-vault-namespace'] ?? '')
    const [, mount] = /^\/v1\/auth\/(.+)\/login$/.exec(path) ?? []
    if (mount !== undefined) return logIn(mount, (body ?? {}) as Record<string, string>)
    const token = String(request.headers['x-vault-token'] ?? '')
    if (token !== rootToken && !tokens.has(token)) return errors(403)
    asked.push(path)
    if (path === '/v1/auth/token/lookup-self') return { status: 200, body: { data: {} } }
    if (path === '/v1/auth/token/revoke-self') return { status: tokens.delete(token) ? 204 : 400 }
    const [, shown] = /^\/v1\/sys\/internal\/ui\/mounts\/(kv[12]|aws)$/.exec(path) ?? []
    if (shown === 'aws') return { status: 200, body: { data: { type: 'aws', options: null } } }
    if (shown !== undefined) {
      if (hidden) return errors(403)
      return { status: 200, body: { data: { type: 'kv', options: shown === 'kv2' ? { version: '2' } : null } } }
    }
    const [, engine = '', inside = ''] = /^\/v1\/(kv1|kv2\/data|kv2)\/(.+)$/.exec(path) ?? []
    if (forbidden.has(inside) || engine === '') return errors(403)
    return engine === 'kv2' ? errors(404) : read(engine.slice(0, 3), inside, namespace)
  }

  const server = await startJsonServer(certificate, answer)
  return {
    url: server.url,
    certificate,
    rootToken,
    put: (engine, path, data, namespace = '') => {
      const id = `${namespace}|${engine}/${path}`
      secrets.set(id, [...(secrets.get(id) ?? []), { data, created: new Date().toISOString() }])
    },
    remove: (engine, path) => void secrets.delete(`|${engine}/${path}`),
    forbid: (path) => void forbidden.add(path),
    hideMounts: () => {
      hidden = true
    },
    admit: (mount, isRight, leaseSeconds = 3600) => void methods.set(mount, { isRight, leaseSeconds }),
    expireTokens: () => tokens.clear(),
    logins: () => logins,
    asked: () => asked,
    tokens: () => tokens.size,
    tokenNames: () => [...tokens],
    stop: server.close,
  }
}
