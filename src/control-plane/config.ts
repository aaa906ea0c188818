import { isIPv6 } from 'node:net'
import { join } from 'node:path'
import { ConnectorId } from '../protocol/calls.ts'

export interface ControlPlaneConfig {
  /** Port 0: any free one. */
  readonly listen: { readonly host: string; readonly port: number }
  readonly tls: { readonly certFile: string; readonly keyFile: string } | null
  /** Holds the database and, without one given, the encryption key. */
  readonly stateDir: string
  /** A SQLite file. */
  readonly databasePath: string
  /** 32 bytes that private keys are encrypted with; null: kept in a file of the state folder, made at first start. */
  readonly encryptionKey: { readonly value: string } | { readonly file: string } | null
  /** Tokens that the deployment made; read at start, if the files are there. */
  readonly firstAdminTokenFile: string | null
  readonly firstConnectorTokenFile: string | null
  readonly firstConnectorId: string | null
}

export type ParsedControlPlaneConfig =
  | { ok: true; config: ControlPlaneConfig }
  | { ok: false; problems: readonly string[] }

type Env = Readonly<Record<string, string | undefined>>

export const DEFAULT_LISTEN = '127.0.0.1:8443'
export const DEFAULT_STATE_DIR = '/var/lib/apono/control-plane'

const text = (env: Env, name: string): string | null => env[name]?.trim() || null

/** `host:port`, `[v6]:port`, `:port` for every address. */
const parseListen = (value: string, problems: string[]): ControlPlaneConfig['listen'] => {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:\s[\]]*)):(\d{1,5})$/.exec(value)
  const port = Number(match?.[3] ?? Number.NaN)
  const host = match?.[1] ?? match?.[2]
  if (host === undefined || !(port <= 65535) || (match?.[1] !== undefined && !isIPv6(host))) {
    problems.push(`APONO_LISTEN: must be host:port, e.g. ${DEFAULT_LISTEN}`)
    return { host: '127.0.0.1', port: 0 }
  }
  return { host: host === '' ? '::' : host, port }
}

const parseTls = (env: Env, problems: string[]): ControlPlaneConfig['tls'] => {
  const [certFile, keyFile] = [text(env, 'APONO_TLS_CERT_FILE'), text(env, 'APONO_TLS_KEY_FILE')]
  if (certFile && keyFile) return { certFile, keyFile }
  if (certFile) problems.push('APONO_TLS_KEY_FILE: required with APONO_TLS_CERT_FILE')
  if (keyFile) problems.push('APONO_TLS_CERT_FILE: required with APONO_TLS_KEY_FILE')
  return null
}

const isLoopback = (host: string): boolean => host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host)

const parseDatabase = (env: Env, stateDir: string, problems: string[]): string => {
  const value = text(env, 'APONO_DATABASE_URL')
  if (value === null) return join(stateDir, 'control-plane.db')
  if (/^postgres(ql)?:/i.test(value)) {
    problems.push(
      'APONO_DATABASE_URL: PostgreSQL is not supported yet; give a SQLite file, e.g. sqlite:/var/lib/apono/control-plane/control-plane.db',
    )
  } else if (/^[a-z][a-z0-9+.-]+:/i.test(value) && !/^sqlite:/i.test(value)) {
    problems.push('APONO_DATABASE_URL: must be a path or sqlite:PATH')
  }
  return value.replace(/^sqlite:(\/\/(?=\/))?/i, '')
}

const parseEncryptionKey = (env: Env, problems: string[]): ControlPlaneConfig['encryptionKey'] => {
  const [value, file] = [text(env, 'APONO_ENCRYPTION_KEY'), text(env, 'APONO_ENCRYPTION_KEY_FILE')]
  if (value && file) problems.push('APONO_ENCRYPTION_KEY: give either this or APONO_ENCRYPTION_KEY_FILE')
  if (value) return { value }
  return file ? { file } : null
}

const parseConnectorId = (env: Env, problems: string[]): string | null => {
  const id = text(env, 'APONO_FIRST_CONNECTOR_ID')
  if (id === null) return null
  if (!text(env, 'APONO_FIRST_CONNECTOR_TOKEN_FILE')) {
    problems.push('APONO_FIRST_CONNECTOR_ID: has no meaning without APONO_FIRST_CONNECTOR_TOKEN_FILE')
  }
  const parsed = ConnectorId.safeParse(id)
  if (!parsed.success) problems.push(`APONO_FIRST_CONNECTOR_ID: ${parsed.error.issues[0]?.message}`)
  return id
}

/** The environment, read once and wholly: everything that is wrong with it comes back together. */
export const parseControlPlaneConfig = (env: Env): ParsedControlPlaneConfig => {
  const problems: string[] = []
  const listen = parseListen(text(env, 'APONO_LISTEN') ?? DEFAULT_LISTEN, problems)
  const tls = parseTls(env, problems)
  if (!tls && !isLoopback(listen.host)) {
    problems.push('APONO_LISTEN: without APONO_TLS_CERT_FILE and APONO_TLS_KEY_FILE only a loopback address is allowed')
  }
  const stateDir = text(env, 'APONO_STATE_DIR') ?? DEFAULT_STATE_DIR
  const config: ControlPlaneConfig = {
    listen: Object.freeze(listen),
    tls: tls && Object.freeze(tls),
    stateDir,
    databasePath: parseDatabase(env, stateDir, problems),
    encryptionKey: parseEncryptionKey(env, problems),
    firstAdminTokenFile: text(env, 'APONO_FIRST_ADMIN_TOKEN_FILE'),
    firstConnectorTokenFile: text(env, 'APONO_FIRST_CONNECTOR_TOKEN_FILE'),
    firstConnectorId: parseConnectorId(env, problems),
  }
  return problems.length > 0 ? { ok: false, problems } : { ok: true, config: Object.freeze(config) }
}
