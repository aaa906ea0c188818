/**
 * Control plane and connector in one process, for small set-ups. They share a folder and a life, and still talk the
 * protocol, over loopback: nothing here knows more of either than their configuration.
 */
import { isAbsolute, join } from 'node:path'
import { readConfig } from '../connector/config.ts'
import { type ControlPlaneConfig, parseControlPlaneConfig } from '../control-plane/config.ts'
import { LOG_LEVELS, type LogLevel } from '../observability/log.ts'

export interface StandaloneConfig {
  readonly controlPlane: ControlPlaneConfig
  /** `APONO_CONNECTOR_ID`, `standalone`. */
  readonly connectorId: string
  /** `APONO_SECRET_DIR`, the folder `secrets` of the state folder. */
  readonly secretDirectory: string
  readonly connectorLogLevel: LogLevel
  /** For the connector, which gets its address and token from the control plane that it lives with. */
  readonly environment: Readonly<Record<string, string | undefined>>
}

export type ParsedStandaloneConfig = { ok: true; config: StandaloneConfig } | { ok: false; problems: readonly string[] }

type Environment = Readonly<Record<string, string | undefined>>

const OURS = ['APONO_URL', 'APONO_TOKEN', 'APONO_TOKEN_FILE'] as const

const connectorEnvironment = (env: Environment, stateDir: string): Environment => ({
  ...env,
  APONO_CONNECTOR_ID: env['APONO_CONNECTOR_ID']?.trim() || 'standalone',
  APONO_SECRET_DIR: env['APONO_SECRET_DIR']?.trim() || join(stateDir, 'secrets'),
  APONO_STATE_DIR: stateDir,
  APONO_HEALTH_LISTEN: env['APONO_HEALTH_LISTEN']?.trim() || 'off',
})

/** Checked before anything starts, with an address and a token that only stand in for those to come. */
const checkConnector = (environment: Environment): readonly string[] => {
  const parsed = readConfig({ ...environment, APONO_URL: 'http://127.0.0.1', APONO_TOKEN: 'to-come' })
  return parsed.ok ? [] : parsed.problems
}

/** The environment, read once; everything that is wrong with it comes back together. */
export const parseStandaloneConfig = (env: Environment): ParsedStandaloneConfig => {
  const problems: string[] = OURS.filter((name) => env[name]?.trim()).map(
    (name) => `${name}: has no meaning in standalone, where the connector uses the control plane beside it`,
  )
  const stateDir = env['APONO_STATE_DIR']?.trim() || '/var/lib/apono/standalone'
  if (!isAbsolute(stateDir)) problems.push('APONO_STATE_DIR: must be an absolute path')
  const controlPlane = parseControlPlaneConfig({ ...env, APONO_STATE_DIR: stateDir })
  if (!controlPlane.ok) problems.push(...controlPlane.problems)
  const environment = connectorEnvironment(env, stateDir)
  for (const problem of checkConnector(environment)) if (!problems.includes(problem)) problems.push(problem)
  if (problems.length > 0 || !controlPlane.ok) return { ok: false, problems }
  return {
    ok: true,
    config: Object.freeze({
      controlPlane: controlPlane.config,
      connectorId: environment['APONO_CONNECTOR_ID'] ?? '',
      secretDirectory: environment['APONO_SECRET_DIR'] ?? '',
      connectorLogLevel: LOG_LEVELS.find((level) => level === env['APONO_LOG_LEVEL']) ?? 'info',
      environment,
    }),
  }
}
