import type { ErrorFacts } from '../host/errors.ts'
import { fingerprintOfLine } from '../protocol/public-key.ts'
import { type HostKeyRules, type HostKeyVerdict, knownTypes, typeOfHostKey } from './host-keys.ts'

type RefusedKey = Exclude<HostKeyVerdict, 'accepted'>

export interface HostKeyFault {
  readonly code: RefusedKey
  readonly message: string
  /** For the hint: whose list it is, and which file of the server to compare with. */
  readonly facts: Pick<ErrorFacts, 'knownHosts' | 'hostKeyKind'>
}

const KINDS: Readonly<Record<string, NonNullable<ErrorFacts['hostKeyKind']>>> = {
  'ssh-ed25519': 'ed25519',
  'ssh-rsa': 'rsa',
  'ecdsa-sha2-nistp256': 'ecdsa',
  'ecdsa-sha2-nistp384': 'ecdsa',
  'ecdsa-sha2-nistp521': 'ecdsa',
}

/** `ssh-ed25519 SHA256:…`. The type is a stranger's word, and ends up in a log. */
const describe = (line: string): string => {
  const type = typeOfHostKey(line)
  return `${Object.hasOwn(KINDS, type) ? type : 'a key'} ${fingerprintOfLine(line)}`
}

const SHOWN = 8

const describeAll = (lines: readonly string[]): string => {
  const more = lines.length > SHOWN ? [`${lines.length - SHOWN} more`] : []
  return [...lines.slice(0, SHOWN).map(describe), ...more].join(', ')
}

const sourceOf = ({ decidedBy }: HostKeyRules): string => decidedBy ?? 'the integration'

const unknownMessage = (shown: string, rules: HostKeyRules): string =>
  rules.authorityOnly
    ? `the server shows ${shown}; ${sourceOf(rules)} has only @cert-authority for it, and host certificates are not verified`
    : `the server shows ${shown}; no host key of this server is known, and the policy is pinned`

const messageOf = (code: RefusedKey, presented: string, rules: HostKeyRules): string => {
  const shown = describe(presented)
  if (code === 'host_key_revoked')
    return `the server shows ${shown}, which the connector's known_hosts marks as revoked`
  if (code === 'host_key_unknown') return unknownMessage(shown, rules)
  return `the server shows ${shown}; known from ${sourceOf(rules)}: ${describeAll(rules.known)}`
}

const factsOf = (type: string, rules: HostKeyRules): HostKeyFault['facts'] => {
  const kind = Object.hasOwn(KINDS, type) ? KINDS[type] : undefined
  return {
    ...(rules.decidedBy === null ? {} : { knownHosts: rules.decidedBy }),
    ...(kind === undefined ? {} : { hostKeyKind: kind }),
  }
}

/** The server showed a key that it may not have. Both sides are named by fingerprint, as `ssh-keygen -l` prints it. */
export const refusedKey = (code: RefusedKey, presented: string, rules: HostKeyRules): HostKeyFault => ({
  code,
  message: messageOf(code, presented, rules),
  facts: factsOf(typeOfHostKey(presented), rules),
})

/** It has no key of any type that it is known by, so that it could show none. */
export const missingKey = (rules: HostKeyRules): HostKeyFault => {
  const types = knownTypes(rules)
  return {
    code: 'host_key_changed',
    message: `the server has no host key of type ${types.join(', ')}; known from ${sourceOf(rules)}: ${describeAll(rules.known)}`,
    facts: factsOf('', rules),
  }
}
