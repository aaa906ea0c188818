import { type ErrorCode, type ErrorFacts, JobError } from '../host/errors.ts'
import { type HostKeyFault, missingKey, refusedKey } from './host-key-fault.ts'
import type { HostKeyRules, HostKeyVerdict } from './host-keys.ts'

/**
 * What a server said to a key that it was offered: no; yes, by asking for a signature, which says nothing of the account
 * yet; nothing, and ended the connection, which may be its no; or nothing so far.
 */
export interface KeyOffer {
  readonly fingerprint: string
  answer: 'none' | 'refused' | 'wanted' | 'hung_up'
}

/** How far a connection had come, and what was seen on the way: all that a failure is judged by. */
export interface Progress {
  /** The first bytes from the server, up to its identification line. */
  greeting: string
  /** Without `SSH-2.0-`; null until the server has said it. */
  serverSoftware: string | null
  verdict: HostKeyVerdict | null
  /** What the server showed, proved or not. */
  presentedKey: string | null
  handshakeDone: boolean
  /** In the order of offering. */
  readonly offers: KeyOffer[]
  /** The key was right, and the server wants something more. */
  partialSuccess: boolean
  methodsLeft: readonly string[]
  /** What sshd said while we logged in: its banner, and what PAM has to say to who may not come in. */
  banner: string
  ready: boolean
}

export const startProgress = (): Progress => ({
  greeting: '',
  serverSoftware: null,
  verdict: null,
  presentedKey: null,
  handshakeDone: false,
  offers: [],
  partialSuccess: false,
  methodsLeft: [],
  banner: '',
  ready: false,
})

type Fault = { readonly code: ErrorCode; readonly message: string; readonly facts?: ErrorFacts }

const systemCode = (error: unknown): string => {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return typeof code === 'string' ? code : ''
}

/** Printable, one line, short: it came from a stranger. */
const quote = (text: string): string =>
  JSON.stringify(
    text
      .split('\n', 1)[0]
      ?.replace(/[^\x20-\x7e]/g, '')
      .slice(0, 80) ?? '',
  )

const CLOSED_IN_HANDSHAKE = 'the connection closed during the SSH handshake'

/** The line that the connection ended in is the beginning of an identification. */
const isCutOff = (greeting: string): boolean => {
  const line = greeting.slice(greeting.lastIndexOf('\n') + 1)
  return line !== '' && line.length <= 255 && ('SSH-2.0-'.startsWith(line) || line.startsWith('SSH-2.0-'))
}

const beforeIdentification = (progress: Progress): Fault => {
  const said = progress.greeting.trim()
  if (said === '') return { code: 'ssh_turned_away', message: 'the connection closed before SSH began' }
  // OpenSSH says these two in plain text when it has too many connections or has penalised our address.
  if (/^Not allowed at this time/.test(said)) {
    return { code: 'ssh_penalised', message: `the server lets nobody in from our address for now: ${quote(said)}` }
  }
  if (/^Exceeded MaxStartups/.test(said)) {
    return { code: 'ssh_turned_away', message: `the server turns connections away: ${quote(said)}` }
  }
  if (isCutOff(progress.greeting)) return { code: 'ssh_unreachable', message: CLOSED_IN_HANDSHAKE }
  return { code: 'ssh_handshake_failed', message: `what answers does not speak SSH 2: ${quote(said)}` }
}

const hostKeyFault = ({ verdict, presentedKey }: Progress, rules: HostKeyRules): HostKeyFault | null =>
  verdict === null || verdict === 'accepted' ? null : refusedKey(verdict, presentedKey ?? '', rules)

/**
 * The key was right and PAM denies the account: sshd passes on what PAM says, if it says anything. The words are
 * pam_unix's, systemd's and shutdown's.
 */
const accountFault = (banner: string): Fault => {
  if (/account has expired/i.test(banner)) {
    return { code: 'ssh_account_expired', message: "the connection user's account has expired" }
  }
  const nologin = banner.split('\n').find((line) => /pam_nologin|system is (?:going down|booting up)/i.test(line))
  if (nologin !== undefined) {
    return { code: 'ssh_nologin', message: `the server lets nobody in at the moment: ${quote(nologin)}` }
  }
  return { code: 'ssh_account_denied', message: 'the server closed the connection when the key was offered' }
}

const levelOf = (error: unknown): string =>
  error instanceof Error && 'level' in error && typeof error.level === 'string' ? error.level : ''

/** sshd's packets may be longer than ssh2 reads (35,000 bytes, and no setting); the one such packet of a login is a banner. */
const isTooLong = (error: unknown): boolean => error instanceof Error && /^Bad packet length/.test(error.message)

const TOO_LONG =
  'the server sent a longer packet than SSH 2 asks for; a Banner (sshd_config) of more than 32 kB is one: shorten it'

/**
 * sshd's words after as many refused keys as it allows (MaxAuthTries), in place of the last refusal; others may say it by
 * the reason (RFC 4253, 11.1: no more authentication methods available).
 */
const isOutOfTries = (error: unknown): boolean =>
  error instanceof Error &&
  (/^Too many authentication failures/.test(error.message) || ('code' in error && error.code === 14))

const refusal = ({ offers }: Progress): Fault => ({
  code: 'ssh_auth_failed',
  message: offers.length === 1 ? 'the server refused the key' : 'the server refused the keys',
  facts: { fingerprints: offers.map(({ fingerprint }) => fingerprint) },
})

const authenticationFault = (error: unknown, progress: Progress): Fault => {
  if (progress.partialSuccess) {
    const wanted = quote(progress.methodsLeft.join(', '))
    return { code: 'ssh_mfa_required', message: `the server accepted the key and wants more: ${wanted}` }
  }
  if (progress.offers.at(-1)?.answer === 'refused' || isOutOfTries(error)) return refusal(progress)
  if (isTooLong(error)) return { code: 'ssh_handshake_failed', message: TOO_LONG }
  // PAM's no is a connection that sshd closes; one that is reset is the network's.
  if (levelOf(error) === 'client-socket') {
    return { code: 'ssh_unreachable', message: 'the connection was reset while logging in' }
  }
  return accountFault(progress.banner)
}

/**
 * Whether ssh2 or the server called something wrong, and not merely a connection that ended: what the socket reports
 * has a level of its own, everything else is a matter of protocol, with a level or (where parsing threw) without.
 */
const isProtocolError = (error: unknown): boolean =>
  error instanceof Error && !/^client-(?:socket|timeout)$/.test(levelOf(error))

const duringHandshake = (error: unknown, rules: HostKeyRules): Fault => {
  const text = error instanceof Error ? error.message : ''
  if (rules.known.length > 0 && /no matching host key/i.test(text)) return missingKey(rules)
  if (isProtocolError(error)) {
    return { code: 'ssh_handshake_failed', message: `the SSH handshake failed: ${quote(text)}` }
  }
  return { code: 'ssh_unreachable', message: CLOSED_IN_HANDSHAKE }
}

const faultOf = (error: unknown, progress: Progress, rules: HostKeyRules): Fault => {
  // Whoever has shown a key has named itself, also where we did not hear it for all that it said before.
  if (progress.serverSoftware === null && progress.verdict === null) return beforeIdentification(progress)
  const hostKey = hostKeyFault(progress, rules)
  if (hostKey !== null) return hostKey
  if (progress.offers.length > 0) return authenticationFault(error, progress)
  return duringHandshake(error, rules)
}

/**
 * Judges a connection that ended, by how far it had come rather than by the words of the library. `error` is null
 * where it just ended.
 */
export const connectionFailure = (
  error: unknown,
  progress: Progress,
  rules: HostKeyRules,
  facts: ErrorFacts,
): JobError => {
  if (error instanceof JobError) return error
  const fault = faultOf(error, progress, rules)
  return new JobError(fault.code, fault.message, { ...facts, ...fault.facts }, { cause: error })
}

/**
 * What became of the offers of a login that failed. A server that ends the connection without having asked for a
 * signature has not got as far as the account: it is the key that it does not want, or it has trouble of its own.
 */
export const answeredOffers = ({ offers }: Progress, error: unknown): readonly KeyOffer[] => {
  const code = error instanceof JobError ? error.code : null
  const last = offers.at(-1)
  if (last === undefined) return offers
  if (code === 'ssh_auth_failed') return [...offers.slice(0, -1), { ...last, answer: 'refused' }]
  const isHungUp = code === 'ssh_account_denied' && last.answer === 'none'
  return isHungUp ? [...offers.slice(0, -1), { ...last, answer: 'hung_up' }] : offers
}

const TCP_RESET = 'the connection was reset before SSH began'

const TCP_MESSAGES: Record<string, string> = {
  ECONNREFUSED: 'the connection was refused',
  EHOSTUNREACH: 'there is no route to the host',
  ENETUNREACH: 'there is no route to the network',
  EACCES: 'a local firewall forbids the connection',
  EPERM: 'a local firewall forbids the connection',
  EADDRNOTAVAIL: 'the address cannot be reached from here',
}

/** With several addresses Node wraps one error per address; the first one tells what to look at. */
const firstCause = (error: unknown): unknown =>
  error instanceof AggregateError && error.errors.length > 0 ? error.errors[0] : error

/** Judges a TCP connection that never came about. */
export const tcpFailure = (error: unknown, facts: ErrorFacts): JobError => {
  if (error instanceof JobError) return error
  const code = systemCode(firstCause(error))
  if (code === 'ETIMEDOUT')
    return new JobError('ssh_timeout', 'no answer to the TCP connection', facts, { cause: error })
  // Refused is said to the first packet; who resets has taken the connection before.
  if (code === 'ECONNRESET') return new JobError('ssh_turned_away', TCP_RESET, facts, { cause: error })
  return new JobError('ssh_unreachable', TCP_MESSAGES[code] ?? 'no TCP connection', facts, { cause: error })
}
