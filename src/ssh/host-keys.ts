import type { ErrorCode } from '../host/errors.ts'
import type { Policy } from '../protocol/integration.ts'

/** What is known about the server before it is asked. */
export interface HostKeyRules {
  /** `type base64` each; one of them must be proved. Empty: none is known yet. */
  readonly known: readonly string[]
  readonly policy: Policy['hostKeys']
}

export type HostKeyVerdict = 'accepted' | Extract<ErrorCode, 'host_key_unknown' | 'host_key_changed'>

export const typeOfHostKey = (line: string): string => line.split(' ', 1)[0] ?? ''

/** Our own form of a blob as it comes off the wire: its type is its first field. */
export const hostKeyLine = (blob: Buffer): string => {
  const length = blob.length < 4 ? 0 : blob.readUInt32BE(0)
  return `${blob.subarray(4, 4 + length).toString('latin1')} ${blob.toString('base64')}`
}

/** A known key always decides; the policy only where there is none. */
export const judgeHostKey = (presented: string, rules: HostKeyRules): HostKeyVerdict => {
  if (rules.known.length > 0) return rules.known.includes(presented) ? 'accepted' : 'host_key_changed'
  return rules.policy === 'trust_on_first_use' ? 'accepted' : 'host_key_unknown'
}
