import { refusedKeyText } from './host-keys.ts'
import type { ServerRecord } from './model.ts'

export type IntegrationStatus = 'Initializing' | 'Refreshing' | 'Active' | 'Error' | 'Warning' | 'Disabled'

export interface StatusView {
  readonly status: IntegrationStatus
  readonly details: string
}

/** What the vendor calls "Missing permissions": we reached the server but may not do our work there. */
const PERMISSION_CODES = /^(ssh_auth_failed|sudo_.*|doas_.*|not_root)$/

export const failureText = ({ failure, hostKeys }: ServerRecord): string => {
  if (failure === null) return ''
  const lines = [failure.message, ...refusedKeyText(failure, hostKeys), failure.hint]
  const text = lines.filter((line) => line !== '').join('\n')
  return PERMISSION_CODES.test(failure.code) ? `Missing permissions: ${text}` : text
}

/** Somebody waits for a look at this server that has not ended yet. */
export const isPending = (server: ServerRecord): boolean =>
  server.inspectedAt === null || server.inspectedAt < server.refreshAt

const count = (servers: readonly ServerRecord[]): string =>
  `${servers.length} ${servers.length === 1 ? 'resource' : 'resources'} loaded`

const details = (servers: readonly ServerRecord[], failing: readonly ServerRecord[]): string => {
  const lines = failing.map((server) => {
    const text = failureText(server)
    return servers.length === 1 ? text : `${server.name}: ${text}`
  })
  return lines.length === 0 ? count(servers) : lines.join('\n')
}

/** From the servers that the integration has now. An hourly look is not shown: it would make the status flicker. */
export const integrationStatus = (disabled: boolean, servers: readonly ServerRecord[]): StatusView => {
  if (disabled) return { status: 'Disabled', details: 'switched off by an admin' }
  const pending = servers.filter(isPending)
  if (servers.some((server) => server.inspectedAt === null)) {
    return { status: 'Initializing', details: `waiting for ${pending.length} of ${servers.length} servers` }
  }
  const failing = servers.filter((server) => server.failure !== null)
  if (pending.length > 0) return { status: 'Refreshing', details: details(servers, failing) }
  if (failing.length === 0) return { status: 'Active', details: count(servers) }
  return { status: failing.length === servers.length ? 'Error' : 'Warning', details: details(servers, failing) }
}
