import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { type Config, readConfig } from '../../src/connector/config.ts'
import { type Connector, type ConnectorDeps, startConnector } from '../../src/connector/connector.ts'
import type { HostProgram } from '../../src/host/host-program.ts'
import { systemClock } from '../../src/observability/clock.ts'
import { createLogger } from '../../src/observability/log.ts'
import { PROTOCOL, type RegisterRequest } from '../../src/protocol/calls.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import type { FakeControlPlane } from './fake-control-plane.ts'

/** What an instance says of itself, for tests of what comes after. */
export const REGISTER: RegisterRequest = {
  connectorId: 'c',
  instanceId: 'instance-1',
  version: '0',
  protocol: PROTOCOL,
  cloud: { provider: 'none' },
  secretStores: ['file'],
  slots: 1,
}

export const TOKEN = 'test-token-5f3a'

export type Line = Record<string, unknown>
export type Running = { connector: Connector; lines: Line[]; secretDirectory: string; logText(): string }

/** A directory for secrets with one key in it, as an admin would leave it. */
export const secretDirectory = (privateKey: string): string => {
  const directory = scratchDirectory()
  const content = JSON.stringify({ base64_private_key: Buffer.from(privateKey).toString('base64') })
  writeFileSync(path.join(directory, 'ssh.json'), content, { mode: 0o600 })
  return directory
}

export const configOf = (environment: Record<string, string>): Config => {
  const result = readConfig({
    APONO_TOKEN: TOKEN,
    APONO_CONNECTOR_ID: 'test-1',
    APONO_HEALTH_LISTEN: 'off',
    APONO_CLOUD_PROVIDER: 'none',
    APONO_STATE_DIR: scratchDirectory(),
    ...environment,
  })
  if (!result.ok) throw new Error(result.problems.join('\n'))
  return result.config
}

const unused = async (): Promise<never> => {
  throw new Error('not expected to run')
}
export const noHostProgram: HostProgram = {
  ensurePresent: unused,
  ensureAbsent: unused,
  inspect: unused,
  cleanup: unused,
  expire: unused,
}

export const startTestConnector = async (
  controlPlane: FakeControlPlane,
  options: { privateKey?: string; env?: Record<string, string>; deps?: Partial<ConnectorDeps> } = {},
): Promise<Running> => {
  const lines: Line[] = []
  const log = createLogger('debug', { write: (text) => void lines.push(JSON.parse(text) as Line) })
  const directory = secretDirectory(options.privateKey ?? 'none')
  const config = configOf({ APONO_URL: controlPlane.url, APONO_SECRET_DIR: directory, ...options.env })
  const connector = await startConnector(config, {
    clock: systemClock,
    log,
    random: randomBytes,
    environment: {},
    hostProgram: noHostProgram,
    version: '0.0.0-test',
    allowLoopback: true,
    ...options.deps,
  })
  return { connector, lines, secretDirectory: directory, logText: () => JSON.stringify(lines) }
}
