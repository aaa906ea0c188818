import { SERVICE_ACCOUNT } from './kubernetes.ts'
import type { Environment } from './network.ts'
import { type Secret, secretOf } from './secret.ts'

/** How the connector proves to Vault who it is. */
export type VaultLogin =
  | { readonly method: 'token'; readonly token: Secret | null; readonly file: string | null }
  | {
      readonly method: 'approle'
      readonly mount: string
      readonly roleId: string
      readonly secretId: Secret | null
      readonly secretIdFile: string | null
    }
  | { readonly method: 'kubernetes'; readonly mount: string; readonly role: string; readonly jwtFile: string }
  | {
      readonly method: 'aws'
      readonly mount: string
      readonly role: string
      /** Of STS, which Vault then asks; null: the global endpoint. */
      readonly region: string | null
      /** `iam_server_id_header_value`, where Vault demands one. */
      readonly serverId: string | null
    }

export interface VaultConfig {
  /** `https://vault.example.com:8200` */
  readonly address: string
  readonly namespace: string | null
  readonly caFile: string | null
  readonly login: VaultLogin
}

/** Names a path in Vault: no dots alone, no slash at either end, nothing that a URL gives a meaning. */
export const VAULT_PATH = /^(?!.*(?:^|\/)\.{1,2}(?:\/|$))[A-Za-z0-9._@=:~ -]+(?:\/[A-Za-z0-9._@=:~ -]+)*$/

const METHODS = ['token', 'approle', 'kubernetes', 'aws'] as const
type Method = (typeof METHODS)[number]

interface Reader {
  /** The first of the names that is set. */
  readonly get: (...names: readonly string[]) => string | null
  readonly need: (name: string) => string
  readonly problem: (text: string) => void
}

const readAddress = (reader: Reader, text: string): string => {
  const url = URL.parse(text)
  const isLocal = url !== null && /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])$/.test(url.hostname)
  if (url === null || !['https:', 'http:'].includes(url.protocol) || !/^\/?$/.test(url.pathname)) {
    reader.problem('VAULT_ADDR: must be https://HOST:PORT')
  } else if (url.protocol === 'http:' && !isLocal) {
    reader.problem('VAULT_ADDR: http:// is allowed to loopback only; use https://')
  } else if (`${url.username}${url.password}${url.search}${url.hash}` !== '') {
    reader.problem('VAULT_ADDR: must not contain a user, query or fragment')
  }
  return url?.origin ?? ''
}

const readMethod = (reader: Reader): Method => {
  const text = reader.get('APONO_VAULT_AUTH') ?? 'token'
  const method = METHODS.find((one) => one === text)
  if (method === undefined) reader.problem(`APONO_VAULT_AUTH: must be one of ${METHODS.join(', ')}`)
  return method ?? 'token'
}

const readToken = (reader: Reader): VaultLogin => {
  const [token, file] = [reader.get('VAULT_TOKEN', 'BAO_TOKEN'), reader.get('APONO_VAULT_TOKEN_FILE')]
  if ((token === null) === (file === null)) reader.problem('VAULT_TOKEN, APONO_VAULT_TOKEN_FILE: set one of them')
  return { method: 'token', token: token === null ? null : secretOf(token), file }
}

const readAppRole = (reader: Reader, mount: string): VaultLogin => {
  const [secretId, secretIdFile] = [reader.get('APONO_VAULT_SECRET_ID'), reader.get('APONO_VAULT_SECRET_ID_FILE')]
  if (secretId !== null && secretIdFile !== null) {
    reader.problem('APONO_VAULT_SECRET_ID, APONO_VAULT_SECRET_ID_FILE: set one, not both')
  }
  return {
    method: 'approle',
    mount,
    roleId: reader.need('APONO_VAULT_ROLE_ID'),
    secretId: secretId === null ? null : secretOf(secretId),
    secretIdFile,
  }
}

const readLogin = (reader: Reader): VaultLogin => {
  const method = readMethod(reader)
  const mount = reader.get('APONO_VAULT_AUTH_MOUNT') ?? method
  if (!VAULT_PATH.test(mount)) reader.problem('APONO_VAULT_AUTH_MOUNT: must be the path of an auth method')
  if (method === 'token') return readToken(reader)
  if (method === 'approle') return readAppRole(reader, mount)
  const role = reader.need('APONO_VAULT_ROLE')
  if (method === 'kubernetes') {
    return { method, mount, role, jwtFile: reader.get('APONO_VAULT_JWT_FILE') ?? `${SERVICE_ACCOUNT}/token` }
  }
  const region = reader.get('APONO_VAULT_AWS_REGION')
  if (region !== null && !/^[a-z]{2,4}(?:-[a-z]+)+-\d{1,2}$/.test(region)) {
    reader.problem('APONO_VAULT_AWS_REGION: must be a region such as eu-west-1')
  }
  return { method, mount, role, region, serverId: reader.get('APONO_VAULT_AWS_SERVER_ID') }
}

/** Null where no Vault is named. `problem` is told everything that cannot work, by variable and never with its value. */
export const readVaultConfig = (environment: Environment, problem: (text: string) => void): VaultConfig | null => {
  const get: Reader['get'] = (...names) => names.map((name) => environment[name]?.trim()).find(Boolean) ?? null
  const need = (name: string): string => {
    const value = get(name)
    if (value === null) problem(`${name}: required with APONO_VAULT_AUTH=${get('APONO_VAULT_AUTH')}`)
    return value ?? ''
  }
  const reader = { get, need, problem }
  const address = get('VAULT_ADDR', 'BAO_ADDR')
  if (address === null) return null
  const namespace = get('VAULT_NAMESPACE', 'BAO_NAMESPACE')
  const plain = namespace?.replace(/^\/|\/$/g, '') ?? null
  if (plain !== null && !VAULT_PATH.test(plain)) problem('VAULT_NAMESPACE: must be the path of a namespace')
  return {
    address: readAddress(reader, address),
    namespace: plain,
    caFile: get('VAULT_CACERT', 'BAO_CACERT'),
    login: readLogin(reader),
  }
}
