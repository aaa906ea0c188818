import { isIP } from 'node:net'
import { type ErrorFacts, JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import type { Grant } from '../protocol/grant.ts'
import type { SecretReference } from '../protocol/integration.ts'
import type { Job } from '../protocol/job.ts'
import { withDeadline } from '../ssh/deadline.ts'
import type { CheckedAddress } from '../ssh/socket.ts'
import { kindOf, type Resolve } from './addresses.ts'

/**
 * The customer's own limits: what no control plane, however it was taken over, can make this connector do.
 *
 * Every job passes `admit` before a secret is read or a socket opened, and can only connect to the addresses that it
 * returns. This is the default guard; the file that widens or narrows it comes later.
 */
export interface Guard {
  /**
   * The addresses of what the connector itself connects to: the server, or the first jump host. What comes after that is
   * resolved by the jump host before it. Fails with `denied_by_guard`, or `ssh_unreachable`/`ssh_timeout` when the name
   * cannot be resolved.
   */
  admit(job: Job, signal: AbortSignal): Promise<readonly CheckedAddress[]>
}

export interface GuardOptions {
  readonly clock: Clock
  readonly resolve: Resolve
  readonly resolveTimeoutMs: number
  readonly secretDirectory: string
  /** Only `standalone` (and tests) may reach servers on its own machine. */
  readonly allowLoopback: boolean
}

const DAY_MS = 86_400_000
export const MAX_GRANT_MS = 30 * DAY_MS
/** A control plane allows 30 days as well, by a clock that is never quite ours. */
const CLOCK_SLACK_MS = 300_000

const denied = (message: string, facts: ErrorFacts = {}): JobError => new JobError('denied_by_guard', message, facts)

const AZURE_VAULT = /^https:\/\/[a-z0-9-]+\.vault\.(?:azure\.net|azure\.cn|usgovcloudapi\.net)\/?$/i

const checkSecret = (reference: SecretReference, directory: string): void => {
  const parts = Object.values(reference).flatMap((value) => value.split(/[/\\]/))
  if (parts.includes('..')) throw denied('the secret reference contains ".."')
  if (reference.type === 'file' && !reference.path.startsWith(`${directory}/`)) {
    throw denied(`secret files are read from ${directory} only (APONO_SECRET_DIR)`)
  }
  if (reference.type === 'azure' && !AZURE_VAULT.test(reference.vaultUrl)) {
    throw denied("the vault's URL is not in Azure's domains")
  }
}

const secretsOf = ({ integration, server }: Job): SecretReference[] => [
  integration.secretStore,
  ...server.jumps.flatMap(({ secretStore }) => secretStore ?? []),
]

/** By the connector's own clock: the corrected one follows the control plane, which is not to be trusted here. */
const checkGrant = (grant: Grant, now: number): void => {
  if (Date.parse(grant.notAfter) - now > MAX_GRANT_MS + CLOCK_SLACK_MS)
    throw denied('the grant ends more than 30 days from now')
}

const checkAddress = (address: CheckedAddress, options: GuardOptions): void => {
  const kind = kindOf(address)
  if (kind === 'link_local') throw denied('the server is at a link-local address (cloud metadata lives there)')
  if (kind === 'loopback' && !options.allowLoopback) throw denied("the server is the connector's own machine")
}

type Place = Pick<Job['server'], 'host' | 'port'>

const findAddresses = async ({ host, port }: Place, options: GuardOptions, signal: AbortSignal) => {
  const facts = { host, port }
  try {
    return await withDeadline(options.resolve(host), {
      clock: options.clock,
      ms: options.resolveTimeoutMs,
      signal,
      onTimeout: () => new JobError('ssh_timeout', 'the name of the server was not resolved in time', facts),
      onAbort: () => new JobError('cancelled', 'called off while resolving the name of the server', facts),
    })
  } catch (error) {
    if (error instanceof JobError) throw error
    throw new JobError('ssh_unreachable', 'the name of the server cannot be resolved', facts, { cause: error })
  }
}

const inWords = (host: string): CheckedAddress | null => {
  const family = isIP(host)
  return family === 0 ? null : { address: host, family: family === 6 ? 6 : 4 }
}

/** RFC 6761's name, and what Debian and Red Hat write into every /etc/hosts. */
const OWN_NAME = /^(?:(?:.*\.)?localhost|localhost[46]?(?:\.localdomain[46]?)?|ip6-(?:localhost|loopback))\.?$/i

/** Resolved over there, by a name that means there what it means: only what is plain from here is refused. */
const checkBehind = ({ host }: Place, options: GuardOptions): void => {
  const address = inWords(host)
  if (address !== null) checkAddress(address, options)
  // A name that ends in a number: in any other notation (127.1, 127.0.0.0x1) a resolver takes it for an address.
  else if (/(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)\.?$/i.test(host))
    throw denied('a server behind a jump host has an odd number for an address')
  if (!options.allowLoopback && OWN_NAME.test(host)) throw denied('the server is the jump host itself')
}

/** Resolved once: what was checked is what is connected to, so that a name cannot point elsewhere a moment later. */
const checkTarget = async ({ server }: Job, options: GuardOptions, signal: AbortSignal) => {
  const places: readonly Place[] = [...server.jumps, server]
  const [first = server, ...behind] = places
  for (const place of behind) checkBehind(place, options)
  const addresses = await findAddresses(first, options, signal)
  for (const address of addresses) checkAddress(address, options)
  return addresses
}

/**
 * The limits that hold without a guard file: no adoption, 30 days at most, no link-local and (outside `standalone`) no
 * loopback target, secret files under one directory only, Azure vaults of Azure's domains only, no `..` anywhere.
 * `absent` is only held to where it goes and which secret it reads, so that limits never keep access alive.
 */
export const defaultGuard = (options: GuardOptions): Guard => ({
  admit: async (job, signal) => {
    for (const reference of secretsOf(job)) checkSecret(reference, options.secretDirectory)
    if (job.kind === 'ensure' && job.grant.state === 'present') {
      if (job.integration.policy.existingUser === 'adopt') throw denied('the policy existingUser: adopt is not allowed')
      checkGrant(job.grant, options.clock.now())
    }
    return await checkTarget(job, options, signal)
  },
})
