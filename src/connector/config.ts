/**
 * The daemon next to the servers: it asks a control plane for jobs, does them one server at a time, and says what it
 * saw.
 *
 * What lives here: configuration, one file per loop (claim, renew, report), what they share (registration, leases,
 * outage, back-off), the guard and the executor. What may enter: parsed configuration, the protocol's schemas, and the
 * rooms below (`secrets`, `certificates`, `ssh`, `host`), which never call back up. What never does: a reading of the
 * environment outside this file, a clock or generator of its own, a decision about who may have access.
 */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { createSecureContext } from 'node:tls'
import { z } from 'zod'
import { LOG_LEVELS, type LogLevel } from '../observability/log.ts'
import { ConnectorId } from '../protocol/calls.ts'
import { CloudProvider } from '../protocol/primitives.ts'
import type { Environment } from '../secrets/network.ts'
import { type Secret, secretOf } from '../secrets/secret.ts'
import { readVaultConfig, type VaultConfig } from '../secrets/vault-config.ts'
import { isLoopbackName } from './addresses.ts'
import { guardFileProblems } from './guard-file-read.ts'
import { knownHostsProblems } from './known-hosts-file.ts'
import type { ClientCertificate } from './way.ts'

/** Where the connector's own token comes from. A file is read again when the control plane answers 401. */
export type TokenConfig =
  | { readonly kind: 'value'; readonly token: Secret }
  | { readonly kind: 'file'; readonly path: string }

export interface Config {
  /** Origin and path prefix without a trailing slash, e.g. `https://control.example.com`. `APONO_URL`. */
  readonly url: string
  /** `APONO_TOKEN` or `APONO_TOKEN_FILE`. */
  readonly token: TokenConfig
  /** `APONO_CLIENT_CERT_FILE` and `APONO_CLIENT_KEY_FILE`; null: none is shown. */
  readonly clientCertificate: ClientCertificate | null
  /** `APONO_CONNECTOR_ID`. */
  readonly connectorId: string
  /** The only directory that secrets of type `file` are read from. `APONO_SECRET_DIR`. */
  readonly secretDirectory: string
  /**
   * Absolute path of a known_hosts file that wins over the integrations' host keys and policies. `APONO_KNOWN_HOSTS_FILE`,
   * null: there is none.
   */
  readonly knownHostsFile: string | null
  /** Absolute path of the customer's own limits. `APONO_GUARD_FILE`, null: the default limits hold. */
  readonly guardFile: string | null
  /** `APONO_STATE_DIR`. */
  readonly stateDirectory: string
  /** Jobs at the same time. `APONO_SLOTS`, 16. More than one connection is never opened to one server. */
  readonly slots: number
  /** Null: no health endpoint. `APONO_HEALTH_LISTEN`, `0.0.0.0:8080`. */
  readonly healthListen: { readonly host: string; readonly port: number } | null
  /** `APONO_LOG_LEVEL`, `info`. */
  readonly logLevel: LogLevel
  /** `APONO_CLOUD_PROVIDER`; without it the connector looks for itself. */
  readonly cloudProvider: CloudProvider | 'detect'
  /** Null: there is none. `VAULT_ADDR` and what belongs to it (docs/secret-stores.md). */
  readonly vault: VaultConfig | null
  readonly secretCache: SecretCacheSettings
  readonly deadlines: Deadlines
  readonly pool: PoolSettings
}

export interface SecretCacheSettings {
  /** For which the store is not asked again, in milliseconds. `APONO_SECRET_TTL_MS`, 300,000. */
  readonly ttlMs: number
  /** For which a key is used while its store cannot be reached. `APONO_SECRET_HARD_LIMIT_MS`, 3,600,000. */
  readonly hardLimitMs: number
}

export interface PoolSettings {
  /** Before a connection that nobody uses is closed, in milliseconds. `APONO_SSH_IDLE_MS`, 300,000. */
  readonly idleMs: number
  /** Connections that are kept open at most. `APONO_SSH_MAX_CONNECTIONS`, 1,000. */
  readonly most: number
}

/** Milliseconds. */
export interface Deadlines {
  /** For the TCP connection. `APONO_SSH_CONNECT_TIMEOUT_MS`, 10,000. */
  readonly tcpMs: number
  /** From there to agreed keys. `APONO_SSH_HANDSHAKE_TIMEOUT_MS`, 15,000. */
  readonly handshakeMs: number
  /** From there to the accepted login. `APONO_SSH_LOGIN_TIMEOUT_MS`, 15,000. */
  readonly loginMs: number
  /** For opening a channel. `APONO_SSH_CHANNEL_TIMEOUT_MS`, 10,000. */
  readonly channelMs: number
  /** Between two signs of life; a dead peer is noticed after four. `APONO_SSH_KEEPALIVE_MS`, 2,500. */
  readonly keepaliveMs: number
  /** For the program on the server. `APONO_SSH_COMMAND_TIMEOUT_MS`, 120,000. */
  readonly execMs: number
  /** Without a byte from it. `APONO_SSH_SILENCE_TIMEOUT_MS`, 60,000. */
  readonly silenceMs: number
  /** For reading a secret, attempts and pauses included. `APONO_SECRET_TIMEOUT_MS`, 5,000. */
  readonly secretMs: number
}

export type ConfigResult =
  | { readonly ok: true; readonly config: Config }
  | { readonly ok: false; readonly problems: readonly string[] }

/** Collects every problem instead of stopping at the first; what it returns then is never used. */
interface Reader {
  readonly get: (name: string) => string | undefined
  readonly problem: (text: string) => void
}

const HTTP = /^https?:\/\//i
const SCHEME = /^[a-z][a-z0-9+.-]*:\/\//i

const checkUrl = (url: URL, reader: Reader): void => {
  if (url.protocol === 'http:' && !isLoopbackName(url.hostname)) {
    reader.problem('APONO_URL: http:// is allowed to loopback only; use https://')
  }
  if (url.username !== '' || url.password !== '') reader.problem('APONO_URL: must not contain a user or password')
  if (url.search !== '' || url.hash !== '') reader.problem('APONO_URL: must not contain a query or fragment')
}

const readUrl = (reader: Reader): string => {
  const text = reader.get('APONO_URL')
  if (text === undefined) {
    reader.problem('APONO_URL: required, e.g. https://control-plane.example.com')
    return ''
  }
  if (SCHEME.test(text) && !HTTP.test(text)) {
    reader.problem('APONO_URL: must be https://…')
    return ''
  }
  const url = URL.parse(HTTP.test(text) ? text : `https://${text}`)
  if (url === null) {
    reader.problem('APONO_URL: not a URL')
    return ''
  }
  checkUrl(url, reader)
  return `${url.origin}${url.pathname}`.replace(/\/+$/, '')
}

/** What fits in a header; anything else would be a different token or an injected header. */
export const TOKEN = /^[\x21-\x7e]{1,4096}$/

const readTokenFile = (file: string, reader: Reader): TokenConfig => {
  try {
    if (!TOKEN.test(readFileSync(file, 'utf8').trim())) reader.problem('APONO_TOKEN_FILE: holds no token')
  } catch (error) {
    reader.problem(`APONO_TOKEN_FILE: cannot be read (${(error as NodeJS.ErrnoException).code ?? 'unknown'})`)
  }
  return { kind: 'file', path: file }
}

const readToken = (reader: Reader): TokenConfig => {
  const value = reader.get('APONO_TOKEN')
  const file = reader.get('APONO_TOKEN_FILE')
  if (value !== undefined && file !== undefined) reader.problem('APONO_TOKEN, APONO_TOKEN_FILE: set one, not both')
  if (file !== undefined) return readTokenFile(file, reader)
  if (value === undefined) reader.problem('APONO_TOKEN or APONO_TOKEN_FILE: required')
  else if (!TOKEN.test(value)) reader.problem('APONO_TOKEN: must be printable ASCII without spaces')
  return { kind: 'value', token: secretOf(value ?? '') }
}

const readClientCertificate = (reader: Reader): ClientCertificate | null => {
  const [certFile, keyFile] = [reader.get('APONO_CLIENT_CERT_FILE'), reader.get('APONO_CLIENT_KEY_FILE')]
  if (certFile === undefined && keyFile === undefined) return null
  if (certFile === undefined || keyFile === undefined) {
    reader.problem('APONO_CLIENT_CERT_FILE, APONO_CLIENT_KEY_FILE: set both, or neither')
    return null
  }
  try {
    createSecureContext({ cert: readFileSync(certFile), key: readFileSync(keyFile) })
  } catch (error) {
    const why = (error as NodeJS.ErrnoException).code ?? 'unknown'
    reader.problem(`APONO_CLIENT_CERT_FILE, APONO_CLIENT_KEY_FILE: no certificate with its key (${why})`)
  }
  return { certFile, keyFile }
}

const readInteger = (reader: Reader, name: string, fallback: number, min: number, max: number): number => {
  const text = reader.get(name)
  if (text === undefined) return fallback
  const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN
  if (value >= min && value <= max) return value
  reader.problem(`${name}: must be a whole number from ${min} to ${max}`)
  return fallback
}

const readOne = <T extends string>(reader: Reader, name: string, values: readonly T[], fallback: T): T => {
  const text = reader.get(name)
  if (text === undefined) return fallback
  const found = values.find((value) => value === text)
  if (found === undefined) reader.problem(`${name}: must be one of ${values.join(', ')}`)
  return found ?? fallback
}

const readDirectory = (reader: Reader, name: string, fallback: string): string => {
  const text = reader.get(name) ?? fallback
  if (!path.isAbsolute(text)) reader.problem(`${name}: must be an absolute path`)
  if (path.resolve(text) === '/') reader.problem(`${name}: must not be /`)
  return path.resolve(text)
}

const LISTEN = /^(?:\[([0-9a-f:.]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})$/i

const readListen = (reader: Reader): Config['healthListen'] => {
  const text = reader.get('APONO_HEALTH_LISTEN') ?? '0.0.0.0:8080'
  if (text === 'off') return null
  const [, v6, host, port] = LISTEN.exec(text) ?? []
  if (port === undefined || Number(port) > 65535) {
    reader.problem('APONO_HEALTH_LISTEN: must be HOST:PORT or off')
    return null
  }
  return { host: v6 ?? host ?? '', port: Number(port) }
}

const readConnectorId = (reader: Reader): string => {
  const parsed = ConnectorId.safeParse(reader.get('APONO_CONNECTOR_ID'))
  if (parsed.success) return parsed.data
  const missing = reader.get('APONO_CONNECTOR_ID') === undefined
  reader.problem(`APONO_CONNECTOR_ID: ${missing ? 'required' : z.prettifyError(parsed.error).replace(/^✖ /, '')}`)
  return ''
}

const HOUR_MS = 3_600_000

const readDeadlines = (reader: Reader): Deadlines => {
  const duration = (name: string, fallback: number): number => readInteger(reader, name, fallback, 1, HOUR_MS)
  return {
    tcpMs: duration('APONO_SSH_CONNECT_TIMEOUT_MS', 10_000),
    handshakeMs: duration('APONO_SSH_HANDSHAKE_TIMEOUT_MS', 15_000),
    loginMs: duration('APONO_SSH_LOGIN_TIMEOUT_MS', 15_000),
    channelMs: duration('APONO_SSH_CHANNEL_TIMEOUT_MS', 10_000),
    keepaliveMs: duration('APONO_SSH_KEEPALIVE_MS', 2500),
    execMs: duration('APONO_SSH_COMMAND_TIMEOUT_MS', 120_000),
    silenceMs: duration('APONO_SSH_SILENCE_TIMEOUT_MS', 60_000),
    secretMs: duration('APONO_SECRET_TIMEOUT_MS', 5000),
  }
}

const readerOf = (environment: Environment, problems: string[]): Reader => ({
  get: (name) => environment[name]?.trim() || undefined,
  problem: (text) => void problems.push(text),
})

/** Paths in it stand in commands that people paste: the guard takes no other characters. */
const readSecretDirectory = (reader: Reader): string => {
  const directory = readDirectory(reader, 'APONO_SECRET_DIR', '/etc/apono/secrets')
  if (!/^[A-Za-z0-9._@+=,:/-]+$/.test(directory)) {
    reader.problem('APONO_SECRET_DIR: must be of letters, digits and ._@+=,:-/')
  }
  return directory
}

const readKnownHostsFile = (reader: Reader): string | null => {
  const file = reader.get('APONO_KNOWN_HOSTS_FILE')
  if (file === undefined) return null
  if (!path.isAbsolute(file)) reader.problem('APONO_KNOWN_HOSTS_FILE: must be an absolute path')
  else for (const problem of knownHostsProblems(file)) reader.problem(`APONO_KNOWN_HOSTS_FILE: ${problem}`)
  return file
}

const readSecretConfig = (environment: Environment, reader: Reader) => ({
  secretDirectory: readSecretDirectory(reader),
  cloudProvider: readOne(reader, 'APONO_CLOUD_PROVIDER', [...CloudProvider.options, 'detect'] as const, 'detect'),
  vault: readVaultConfig(environment, reader.problem),
})

/** Fails closed: whoever set it believes that limits are in force. */
const readGuardPath = (reader: Reader): string | null => {
  const file = reader.get('APONO_GUARD_FILE')
  if (file === undefined) return null
  const problems = path.isAbsolute(file) ? guardFileProblems(file) : ['must be an absolute path']
  for (const problem of problems) reader.problem(`APONO_GUARD_FILE: ${problem}`)
  return file
}

/** What a command at the terminal needs of the connector's configuration: where keys are, and how long to wait. */
export type LocalConfig = Pick<Config, 'knownHostsFile' | 'guardFile' | 'deadlines'> &
  ReturnType<typeof readSecretConfig>

/** All that judging a job offline needs; whatever else is wrong with the environment is no matter there. */
export const readSecretDirectoryOf = (
  environment: Environment,
): { readonly secretDirectory: string; readonly problems: readonly string[] } => {
  const problems: string[] = []
  return { secretDirectory: readSecretDirectory(readerOf(environment, problems)), problems }
}

export const readLocalConfig = (
  environment: Environment,
): { readonly config: LocalConfig; readonly problems: readonly string[] } => {
  const problems: string[] = []
  const reader = readerOf(environment, problems)
  const config = {
    ...readSecretConfig(environment, reader),
    knownHostsFile: readKnownHostsFile(reader),
    guardFile: readGuardPath(reader),
    deadlines: readDeadlines(reader),
  }
  return { config, problems }
}

/**
 * Reads the environment once. An empty variable counts as unset. Every problem is named, by variable and never with
 * its value, so that one look at the message mends them all.
 */
export const readConfig = (environment: Environment): ConfigResult => {
  const problems: string[] = []
  const reader = readerOf(environment, problems)
  const config: Config = {
    url: readUrl(reader),
    token: readToken(reader),
    clientCertificate: readClientCertificate(reader),
    connectorId: readConnectorId(reader),
    ...readSecretConfig(environment, reader),
    knownHostsFile: readKnownHostsFile(reader),
    guardFile: readGuardPath(reader),
    stateDirectory: readDirectory(reader, 'APONO_STATE_DIR', '/var/lib/apono/connector'),
    slots: readInteger(reader, 'APONO_SLOTS', 16, 1, 1000),
    healthListen: readListen(reader),
    logLevel: readOne(reader, 'APONO_LOG_LEVEL', LOG_LEVELS, 'info'),
    secretCache: Object.freeze({
      ttlMs: readInteger(reader, 'APONO_SECRET_TTL_MS', 300_000, 0, 24 * HOUR_MS),
      hardLimitMs: readInteger(reader, 'APONO_SECRET_HARD_LIMIT_MS', HOUR_MS, 1, 24 * HOUR_MS),
    }),
    deadlines: Object.freeze(readDeadlines(reader)),
    pool: Object.freeze({
      idleMs: readInteger(reader, 'APONO_SSH_IDLE_MS', 300_000, 1000, 24 * HOUR_MS),
      most: readInteger(reader, 'APONO_SSH_MAX_CONNECTIONS', 1000, 1, 10_000),
    }),
  }
  return problems.length > 0 ? { ok: false, problems } : { ok: true, config: Object.freeze(config) }
}
