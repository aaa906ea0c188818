import { mkdir } from 'node:fs/promises'
import { readConfig } from '../connector/config.ts'
import { type Connector, type ConnectorDeps, startConnector } from '../connector/connector.ts'
import { type ControlPlane, startControlPlane } from '../control-plane/control-plane.ts'
import type { StandaloneConfig } from './config.ts'

export interface Standalone {
  readonly url: string
  /** Until somebody has been shown one. */
  readonly firstAdminToken: string | null
  /** It was printed: later starts make none. */
  firstAdminTokenShown(): Promise<void>
  /** The connector first, so that it can still report. At most 30 s. May be called twice. */
  stop(): Promise<void>
}

const startConnectorBeside = async (
  controlPlane: ControlPlane,
  config: StandaloneConfig,
  deps: ConnectorDeps,
): Promise<Connector> => {
  const token = await controlPlane.createConnectorToken(config.connectorId)
  const parsed = readConfig({ ...config.environment, APONO_URL: controlPlane.loopbackUrl, APONO_TOKEN: token })
  if (!parsed.ok) throw new Error(parsed.problems.join('\n'))
  return startConnector(parsed.config, { ...deps, allowLoopback: true })
}

/** Starts the control plane, then a connector that talks to it over loopback. A failure leaves nothing running. */
export const startStandalone = async (config: StandaloneConfig, deps: ConnectorDeps): Promise<Standalone> => {
  await mkdir(config.secretDirectory, { recursive: true, mode: 0o700 })
  const controlPlane = await startControlPlane(config.controlPlane, { ...deps, loopback: true })
  try {
    const connector = await startConnectorBeside(controlPlane, config, deps)
    const stop = async (): Promise<void> => {
      await connector.stop()
      await controlPlane.stop()
    }
    const { url, firstAdminToken, firstAdminTokenShown } = controlPlane
    return { url, firstAdminToken, firstAdminTokenShown, stop }
  } catch (error) {
    await controlPlane.stop()
    throw error
  }
}
