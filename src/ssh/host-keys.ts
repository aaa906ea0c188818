import type { ErrorCode } from '../host/errors.ts'
import type { Policy } from '../protocol/integration.ts'
import type { FoundKeys } from './known-hosts.ts'

/** What is known about the server before it is asked. */
export interface HostKeyRules {
  /** `type base64` each; one of them must be proved. Empty: none is known yet. */
  readonly known: readonly string[]
  /** `type base64` each; refused whatever else is known. */
  readonly revoked: readonly string[]
  /** Decides only where no key is known. */
  readonly policy: Policy['hostKeys']
  /** Where `known` comes from: the path of the connector's known_hosts, or null for the integration. */
  readonly decidedBy: string | null
  /**
   * known_hosts trusts an authority for this server and lists no key of it. Nothing here can check what an authority
   * signed, so the first key that is seen is not taken either.
   */
  readonly authorityOnly: boolean
}

/** The connector's known_hosts as it is now, and its path for messages. */
export interface LocalKnownHosts {
  readonly path: string
  readonly find: (host: string, port: number) => FoundKeys
}

export interface NamedServer {
  readonly host: string
  readonly port: number
  /** Pinned in the integration. */
  readonly hostKeys: readonly string[]
}

const WITHOUT_FILE = { revoked: [], decidedBy: null, authorityOnly: false } as const

/** A key in the connector's own known_hosts wins over the integration's, and both over the policy. */
export const hostKeyRules = (
  server: NamedServer,
  policy: Policy['hostKeys'],
  local: LocalKnownHosts | null,
): HostKeyRules => {
  const { host, port, hostKeys } = server
  if (local === null) return { ...WITHOUT_FILE, known: hostKeys, policy }
  const { known, revoked, authorities } = local.find(host, port)
  if (known.length > 0) return { known, revoked, policy, decidedBy: local.path, authorityOnly: false }
  const authorityOnly = authorities.length > 0 && hostKeys.length === 0
  return { known: hostKeys, revoked, policy, decidedBy: authorityOnly ? local.path : null, authorityOnly }
}

export type HostKeyVerdict =
  | 'accepted'
  | Extract<ErrorCode, 'host_key_unknown' | 'host_key_changed' | 'host_key_revoked'>

export const typeOfHostKey = (line: string): string => line.split(' ', 1)[0] ?? ''

/** Our own form of a blob as it comes off the wire: its type is its first field. */
export const hostKeyLine = (blob: Buffer): string => {
  const length = blob.length < 4 ? 0 : blob.readUInt32BE(0)
  return `${blob.subarray(4, 4 + length).toString('latin1')} ${blob.toString('base64')}`
}

/** A revoked key is never accepted; then a known key always decides; the policy only where there is none. */
export const judgeHostKey = (presented: string, rules: HostKeyRules): HostKeyVerdict => {
  if (rules.revoked.includes(presented)) return 'host_key_revoked'
  if (rules.known.length > 0) return rules.known.includes(presented) ? 'accepted' : 'host_key_changed'
  return rules.policy === 'trust_on_first_use' && !rules.authorityOnly ? 'accepted' : 'host_key_unknown'
}

/**
 * The types to ask the server for; empty for any. A revoked key is asked for only where nothing else is known, to be
 * told that it is revoked rather than that there is none.
 */
export const knownTypes = ({ known, revoked }: HostKeyRules): readonly string[] => {
  const usable = known.filter((line) => !revoked.includes(line))
  return [...new Set((usable.length > 0 ? usable : known).map(typeOfHostKey))]
}

/** What the server is known by after a connection: what it proved, and what the integration holds to be its own. */
export const keysToReport = (proved: string, { known, revoked, decidedBy }: HostKeyRules): string[] => {
  // Of known_hosts only what was proved: a pattern there may stand for many servers.
  const pinned = decidedBy === null ? known.filter((line) => !revoked.includes(line)) : []
  return [...new Set([proved, ...pinned])]
}
