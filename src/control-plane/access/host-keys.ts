/**
 * The host keys that a server is pinned to. The first that any connector sees is pinned for all of them; after that
 * only an admin's hand changes it, and each change is in the audit. A key that was refused is shown and never pinned.
 */
import { fingerprintOfLine } from '../../protocol/public-key.ts'
import type { Tx } from '../store/store.ts'
import { audit, SYSTEM } from './audit.ts'
import type { Deps } from './deps.ts'
import { sameMachine } from './grants.ts'
import { isAt, pathOf } from './jump-list.ts'
import type { Failure, GrantRecord, ServerRecord } from './model.ts'
import { MAX_HOST_KEYS } from './server-fields.ts'

const describe = (line: string): string => `${line.split(' ', 1)[0]} ${fingerprintOfLine(line)}`

const same = (some: readonly string[], others: readonly string[]): boolean =>
  some.length === others.length && some.every((line) => others.includes(line))

/**
 * What an admin's list means for a server that stays where it is. Not sent, or sent again as before: nothing. Otherwise
 * it replaces what is pinned; an empty list forgets it, so that the next key is a first one. That the same list again
 * means nothing keeps an update of something else from forgetting what was learnt since.
 */
export const wantedHostKeys = (
  pinned: readonly string[],
  sent: readonly string[] | undefined,
  sentBefore: readonly string[] | undefined,
): readonly string[] => {
  if (sent === undefined || (sentBefore !== undefined && same(sent, sentBefore))) return pinned
  return sent
}

/** The snapshot follows the admin's hand: otherwise access that was given before could never be ended. */
const repinGrant = async (tx: Tx, deps: Deps, grant: GrantRecord, hostKeys: readonly string[]): Promise<void> => {
  const present = grant.present && { ...grant.present, hostKeys: [...hostKeys] }
  await tx.grants.put({ ...grant, present, server: { ...grant.server, hostKeys: [...hostKeys] } })
  if (grant.state !== 'absent') return
  const now = deps.clock.now()
  for (const job of await tx.jobs.openOfGrant(grant.id)) {
    await tx.jobs.put({ ...job, dueAt: Math.min(job.dueAt, now) })
  }
}

/** Of the jump hosts on the way, for who asks later whose hand it was. */
export const auditJumps = async (
  tx: Tx,
  deps: Deps,
  by: string,
  action: string,
  before: ServerRecord,
  server: ServerRecord,
): Promise<void> => {
  for (const jump of server.jumps ?? []) {
    const was = before.jumps?.find(isAt(jump))?.hostKeys ?? []
    if (same(was, jump.hostKeys)) continue
    const keys = { was: was.map(describe), is: jump.hostKeys.map(describe) }
    await audit(tx, deps, by, action, server.id, { name: server.name, jump: `${jump.host}:${jump.port}`, ...keys })
  }
}

/** After an admin has changed a server. Grants at another address keep what they were made with. */
export const followHostKeys = async (
  tx: Tx,
  deps: Deps,
  before: ServerRecord,
  server: ServerRecord,
  by: string,
): Promise<void> => {
  await auditJumps(tx, deps, by, 'server.host_keys_changed', before, server)
  if (same(before.hostKeys, server.hostKeys)) return
  const detail = { name: server.name, was: before.hostKeys.map(describe), is: server.hostKeys.map(describe) }
  await audit(tx, deps, by, 'server.host_keys_changed', server.id, detail)
  if (pathOf(before) !== pathOf(server)) return
  for (const grant of await tx.grants.byServer(server.id)) {
    if (grant.closed === null && sameMachine(grant, server)) await repinGrant(tx, deps, grant, server.hostKeys)
  }
}

/** First come, first pinned: what two connectors report at once is decided by the order of their transactions. */
export const pinFirst = async (
  tx: Tx,
  deps: Deps,
  server: ServerRecord,
  seen: readonly string[],
): Promise<readonly string[]> => {
  if (server.hostKeys.length > 0 || seen.length === 0) return server.hostKeys
  const pinned = seen.slice(0, MAX_HOST_KEYS)
  await audit(tx, deps, SYSTEM, 'server.host_key_pinned', server.id, { name: server.name, is: pinned.map(describe) })
  return pinned
}

const listed = (label: string, lines: readonly string[], said: string): readonly string[] => {
  const missing = lines.filter((line) => !said.includes(fingerprintOfLine(line)))
  return missing.length === 0 ? [] : [`${label}: ${missing.map(describe).join(', ')}`]
}

/** Of a refused key, both sides by fingerprint, where the connector's own words do not name them. */
export const refusedKeyText = (failure: Failure, pinned: readonly string[]): readonly string[] => {
  const { hostKeys = [], message } = failure
  return hostKeys.length === 0 ? [] : [...listed('Shown', hostKeys, message), ...listed('Pinned', pinned, message)]
}
